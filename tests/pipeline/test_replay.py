"""A live run, recorded, and fed back: the same decisions, whatever happened in it."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sage.runtime import JobManager

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.route import Route
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from sage_llm_ops.testing import FaultPlan, FaultyUplink, FaultyWorker, sim_instances
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import ReplayMismatch, RequestError
from sage_llm_ops.types.ids import RequestId, WorkerId
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.wire import CacheChanged, Hello, Stats


class Restarts:
    """An uplink that starts a worker again as soon as it is down."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.workers: dict[str, Any] = {}
        self.open = True

    def on_events(self, worker: WorkerId, incarnation: int, events: Any) -> None:
        self._inner.on_events(worker, incarnation, events)

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        self._inner.on_stats(worker, stats)

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        self._inner.on_cache(worker, incarnation, said)

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        self._inner.on_up(worker, incarnation, hello)

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        self._inner.on_down(worker, incarnation, reason)
        if self.open:
            threading.Timer(0.002, self.workers[worker].start).start()


def trouble(spec: PipelineSpec, path: Path, seed: int) -> dict[str, int]:
    """A few workers that break and die, callers that leave or give up; ends by error."""
    rng = random.Random(seed)
    pipeline = LivePipeline(spec, record=path)
    pipeline.start()
    pipeline.configure("observe", "breaker_failures", 2)
    pipeline.configure("observe", "breaker_open_s", 0.01)
    pipeline.configure("recover", "retry_floor", 10)
    pipeline.configure("recover", "quarantine_s", 0.02)
    plan = FaultPlan(seed=seed, kill=0.03, refuse=0.02, fail=0.05, repeat=0.05, lie=0.01)
    uplink = Restarts(FaultyUplink(pipeline.hands, plan))
    fast = {"prefill_ms": [0.0, 0.0, 0.2], "decode_ms": [0.0, 0.0, 0.1], "decode_floor_ms": 0.0}
    inner = []
    for instance in sim_instances(3, model="m", max_concurrency=3, **fast):
        inner.append(InlineWorker(instance, instance.options, uplink))
        worker = FaultyWorker(inner[-1], plan)
        uplink.workers[worker.id] = inner[-1]
        pipeline.attach(worker)
        worker.start()
    handles = []
    for n in range(120):
        handles.append(
            pipeline.submit(
                make_request(
                    f"r{n}",
                    n_prompt=rng.choice([4, 40, 100]),  # some share blocks
                    max_tokens=rng.randint(1, 6),
                    temperature=rng.choice([0.0, 0.0, 1.0]),
                    priority=rng.randint(0, 4),
                    timeout_s=rng.choice([None, None, 10.0, 0.004, 0.0]),
                )
            )
        )
        if rng.random() < 0.1:
            pipeline.cancel(RequestId(f"r{rng.randint(0, n)}"))
        if n == 40:
            pipeline.configure("recover", "max_attempts", 3)
        if n == 60:
            pipeline.drain_worker(WorkerId("sim-2"))
        if n == 80:
            pipeline.detach(WorkerId("sim-2"), "scaled down")
            inner[2].stop(1.0)
    ends: dict[str, int] = {}
    for handle in handles:
        try:
            code = handle.result(20.0).finish_reason
        except RequestError as error:
            code = error.code
        ends[code] = ends.get(code, 0) + 1
    uplink.open = False
    assert pipeline.stop(5.0)
    plane = pipeline.plane
    assert (plane.jobs, plane.running, plane.fleet.reservations, plane.broken) == ({}, {}, {}, 0)
    assert {kind for kind, _ in pipeline.source.pending()} <= {
        "breaker",
        "quarantine",
        "probe",
        "refusing",
    }
    for worker in inner:
        worker.stop(1.0)
    return ends


@given(
    seed=st.integers(0, 1 << 30),
    policy=st.sampled_from(["fifo", "priority"]),
    routing=st.sampled_from(["load_balanced", "round_robin", "locality", "predicted_latency"]),
)
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    print_blob=True,
)
def test_replay_equals_live(tmp_path: Path, seed: int, policy: str, routing: str) -> None:
    spec = serving(scheduling_policy=policy, routing_strategy=routing)
    path = tmp_path / "run.jsonl"
    ends = trouble(spec, path, seed)
    assert sum(ends.values()) == 120
    assert not set(ends) - {
        "length",
        "stop",
        "cancelled",
        "deadline_expired",
        "engine_failed",
        "worker_lost",
        "quarantined",
    }, ends
    for fuse in (True, False):
        again = replay(Recording(path), spec, fuse=fuse).checked()
        assert again.same
        assert again.decisions > 120


@pytest.mark.parametrize(
    "routing", ["weighted_round_robin", "least_response_time", "predicted_latency", "locality"]
)
def test_newcomers_in_the_rows_of_others(tmp_path: Path, routing: str) -> None:
    """Three at a time, all under ids of their own, each taken out while it is at work."""
    spec, path = serving(routing_strategy=routing), tmp_path / "run.jsonl"
    pipeline = LivePipeline(spec, record=path)
    pipeline.start()
    fast = {"prefill_ms": [0.0, 0.0, 0.2], "decode_ms": [0.0, 0.0, 0.1], "decode_floor_ms": 0.0}
    handles, alive = [], []
    for n in range(15):
        (instance,) = sim_instances(1, model="m", prefix=f"w{n}", max_concurrency=2, **fast)
        alive.append(InlineWorker(instance, instance.options, pipeline.hands))
        pipeline.attach(alive[-1])
        alive[-1].start()
        handles += [
            pipeline.submit(make_request(f"r{n}-{k}", n_prompt=40, max_tokens=4)) for k in range(8)
        ]
        handles[-8].result(20.0)  # by now all is known of whoever left before
        if n >= 3:
            leaves = alive.pop(0)
            pipeline.detach(leaves.id, "scaled down")
            leaves.stop(1.0)
    assert {handle.result(20.0).finish_reason for handle in handles} == {"length"}
    assert pipeline.stop(5.0)
    for worker in alive:
        worker.stop(1.0)
    pipeline.plane.fleet.check_integrity()
    assert len(pipeline.plane.fleet.ids) <= 5, "three, one that comes and one whose nodes come back"
    assert replay(Recording(path), spec).checked().same


def test_another_policy_is_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    trouble(serving(), path, 3)
    other = replay(Recording(path), serving(routing_strategy="round_robin"))
    assert other.same is False
    with pytest.raises(ReplayMismatch, match=other.digest):
        other.checked()


def test_without_a_footer_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    trouble(serving(), path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:10])
    cut = replay(Recording(path), serving())
    assert cut.same is None
    assert cut.events == len(lines) - 2
    assert cut.checked() is cut


class Dies(Route):
    def failed(self, event: Any, error: Exception) -> Any:
        raise error

    def offer(self, event: Any) -> Any:
        raise RuntimeError("boom")


def test_a_replay_that_dies_leaves_no_job_in_sage(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    trouble(serving(), path, 5)
    before = len(JobManager().jobs)
    with pytest.raises(RuntimeError, match="boom"):
        replay(Recording(path), serving(), registry={**OPERATORS, "route": Dies})
    assert len(JobManager().jobs) == before
