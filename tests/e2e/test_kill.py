"""kill -9 of one of two real workers with a hundred streams in flight, at random points."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from sage_llm_ops.core import ControlPlane, serving
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from tests.e2e.fleet import STREAMS, submit, two_workers, wait_all_up, wait_for_tokens

KILLS = int(os.environ.get("SAGE_LLM_OPS_KILLS", "2"))
"""A worker needs some ten seconds to come back on two cores; the full count is 10."""
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_each_request_ends_once_with_the_undisturbed_answer(
    tiny: Path, tmp_path: Path, nothing_left: None
) -> None:
    recording = tmp_path / "run.jsonl"
    with two_workers(tiny, tmp_path, recording) as plane:
        calm = [handle.result(120.0).token_ids for handle in submit(plane, "calm")]
        chance = random.Random(20261120)
        retried = 0
        for round_number in range(KILLS):
            retried += kill_once(plane, round_number, chance, calm)
        assert retried, "no kill hit a running request: the points are not random enough"
        assert plane.pipeline.plane.broken == 0
        plane.pipeline.plane.fleet.check_integrity()
    again = replay(Recording(recording), serving())
    assert again.recorded is not None
    assert again.checked().same


def kill_once(
    plane: ControlPlane, number: int, chance: random.Random, calm: list[tuple[int, ...]]
) -> int:
    """One kill; how many requests needed another attempt."""
    ended: list[str] = []
    handles = submit(plane, f"kill{number}")
    for handle in handles:
        handle.subscribe(lambda h=handle: h.done() and ended.append(h.request_id))
    wait_for_tokens(handles[chance.randrange(STREAMS)], chance.randrange(1, 110))
    pid = plane.worker(f"w{number % 2}").describe()["pid"]
    os.kill(pid, signal.SIGKILL)
    results = [handle.result(120.0) for handle in handles]
    assert [result.token_ids for result in results] == calm
    # A subscriber hears of each end once, or twice where it subscribed to one that had ended.
    assert set(ended) == {handle.request_id for handle in handles}
    assert not plane.pipeline.hands.handles
    wait_all_up(plane)
    return sum(result.attempts > 1 for result in results)


def test_drain_completes_a_hundred(tiny: Path, tmp_path: Path, nothing_left: None) -> None:
    with two_workers(tiny, tmp_path) as plane:
        handles = submit(plane, "drain")
        wait_for_tokens(handles[0], 1)
        plane.unregister("w0", drain=True)
        assert plane.stop(60.0), "the stop had to fail something"
        results = [handle.result(0.0) for handle in handles]
        assert len(results) == STREAMS
        assert {result.attempts for result in results} == {1}
        assert {result.instance_id for result in results} == {"w0", "w1"}
