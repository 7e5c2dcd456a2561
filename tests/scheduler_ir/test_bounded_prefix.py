"""bounded_prefix: all the reuse there is, and nobody is given much more than the others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.fleet import Fleet
from sage_llm_ops.pipeline.simulate import simulate
from sage_llm_ops.pipeline.traces import read_trace, to_request
from sage_llm_ops.scheduler_ir import ROUTINGS
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import WorkerId

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")
TRUTH = DATA / "groundtruth_prefix_setA.json"
NAME = "mooncake_conversation_first30min"


def fleet(count: int) -> Fleet:
    made = Fleet()
    for number in range(count):
        worker = WorkerId(f"w{number}")
        made.join(worker, "m")
        made.up(worker, ("m",), 64, 1 << 20, ("generate",))
    return made


def choose(routing: Any, workers: Fleet, n_prompt: int, **hits: int) -> int:
    job = Job(make_request("r", n_prompt=n_prompt), 0)
    offer = Offer(0, 0.0, job, hits={WorkerId(name): tokens for name, tokens in hits.items()})
    row: int = routing.choose(offer, workers, workers.with_room(job.needs)).row
    return row


def routing(**options: Any) -> Any:
    kind = ROUTINGS["bounded_prefix"]
    return kind(kind.Options(**options))


def test_the_holder_of_most() -> None:
    found, workers = routing(), fleet(3)
    assert choose(found, workers, 100, w1=32, w2=64) == 2


def test_without_a_holder_whom_least_was_given() -> None:
    found, workers = routing(), fleet(3)
    assert [choose(found, workers, 100) for _ in range(6)] == [0, 1, 2, 0, 1, 2]
    assert choose(found, workers, 100, w0=96) == 0
    assert choose(found, workers, 100) == 1, "w0 was given 4 tokens more"


def test_a_holder_that_was_given_too_much_is_passed_over() -> None:
    found, workers = routing(slack_tokens=300), fleet(2)
    rows = [choose(found, workers, 100, w0=1) for _ in range(40)]
    assert rows[:3] == [0, 0, 0]
    assert 12 <= rows.count(1) <= 20


def test_who_is_new_starts_with_the_mean() -> None:
    found, workers = routing(), fleet(2)
    for _ in range(10):
        choose(found, workers, 1000)
    workers.join(WorkerId("w2"), "m")
    workers.up(WorkerId("w2"), ("m",), 64, 1 << 20, ("generate",))
    rows = [choose(found, workers, 1000) for _ in range(9)]
    assert np.bincount(rows).tolist() == [3, 3, 3]


@pytest.mark.parametrize("options", [{"factor": 0.9}, {"slack_tokens": -1}, {"memory_tokens": 0}])
def test_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        routing(**options)


@pytest.mark.skipif(not TRUTH.is_file(), reason="needs the reference results")
@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize(("cache", "blocks"), [("inf", 200_000), ("prefixLRU_5859", 5859)])
def test_a_trace_that_all_begins_alike(count: int, cache: str, blocks: int) -> None:
    """Every request shares its first block, so without a bound one node would get everything. In a
    whole simulation, where a prefix is there once it has been computed and not before."""
    truth = json.loads(TRUTH.read_text())[NAME]["routing"][f"N={count},{cache}"]["bounded_prefix"]
    options = SimOptions.parse(
        {
            "block_size": 512,
            "kv_blocks": blocks,
            "max_model_len": 400_000,
            "max_num_seqs": 256,
            "max_num_batched_tokens": 8192,
            "visible_tokens": False,
        }
    )
    arrivals = (
        (request.at, to_request(request, number, "m"))
        for number, request in enumerate(read_trace(DATA / f"{NAME}.jsonl.zst"))
    )
    report = simulate(
        serving(routing_strategy="bounded_prefix"),
        arrivals,
        instances=count,
        model="m",
        options=options,
        knows_prefixes=True,
    )
    total = report.table.pop("total")
    hits = total["cached_tokens"] / total["prompt_tokens"]
    uncached = [row["prompt_tokens"] - row["cached_tokens"] for row in report.table.values()]
    assert hits >= 0.95 * truth["hit_token_fraction"]
    assert max(uncached) <= 1.3 * sum(uncached) / count
