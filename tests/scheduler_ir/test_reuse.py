"""A service's default routing: the reuse that an even load allows, and an even load."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sage_llm_ops.config import ServiceConfig
from sage_llm_ops.core.defaults import serving_of
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.pipeline.simulate import simulate
from sage_llm_ops.pipeline.traces import read_trace, to_request

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")
TRUTH = DATA / "groundtruth_prefix_setA.json"
NAME = "mooncake_conversation_first30min"


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
        serving_of(ServiceConfig("serving")),
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
