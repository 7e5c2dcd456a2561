"""Reports of prefix caches change decisions, and a replay takes the same ones."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.testing import sim_instances
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.events import KvBatch, WorkerUp
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.kv import KvChange, KvCleared, KvRemoved, KvStored, PrefixCache

SIZE = 4


def change(rng: random.Random) -> KvChange:
    n = rng.randint(1, 6)
    names = np.arange(1, n + 1, dtype="<u8").tobytes()
    act = rng.random()
    if act < 0.1:
        return KvCleared()
    if act < 0.3:
        return KvRemoved(names[-8:])
    return KvStored(names, np.arange(1, n * SIZE + 1, dtype="<i4").tobytes(), SIZE)


@pytest.mark.parametrize("routing", ["locality", "predicted_latency"])
def test_what_workers_report_is_replayed(tmp_path: Path, routing: str) -> None:
    rng = random.Random(1)
    spec, path = serving(routing_strategy=routing), tmp_path / "run.jsonl"
    pipeline = LivePipeline(spec, record=path)
    pipeline.start()
    workers = []
    for instance in sim_instances(3, model="m", prefix_cache=False, timing="instant"):
        workers.append(InlineWorker(instance, instance.options, pipeline.hands))
        pipeline.attach(workers[-1])
        workers[-1].start()
        pipeline.source.post(
            WorkerUp(
                worker=workers[-1].id,
                model="m",
                slots=8,
                max_model_len=4096,
                prefixes=PrefixCache(SIZE, 100, True, 1),
            )
        )
    numbers = [0, 0, 0]
    for turn in range(150):
        at = rng.randrange(3)
        lost = rng.random() < 0.05
        pipeline.source.inform(
            KvBatch(
                worker=WorkerId(workers[at].id),
                incarnation=1,
                number=numbers[at] + lost,
                changes=[change(rng)],
            )
        )
        numbers[at] += 1 + lost
        request = make_request(f"r{turn}", n_prompt=rng.randint(1, 40), max_tokens=2)
        pipeline.submit(request).result(10.0)
    view = pipeline.plane.prefix
    assert isinstance(view, PrefixFleet)
    row = view.row(0.0)
    assert row["hit_rate"] > 0.3
    assert any(entry.hits for entry in pipeline.ledger.entries() if entry.kind == "place")
    assert pipeline.stop(5.0)
    view.check_integrity()
    for worker in workers:
        worker.stop(1.0)
    for fuse in (True, False):
        assert replay(Recording(path), spec, fuse=fuse).checked().same
