"""A live run with deaths, cancels and expiries, fed back: the same decisions."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sage_llm_ops.config import load_pipeline
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from sage_llm_ops.types.errors import DeadlineExpired, RequestCancelled
from tests.e2e.fleet import submit, two_workers, wait_for_tokens

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
SERVING = Path(__file__).parents[2] / "pipelines" / "serving.toml"


def test_the_same_digest(tiny: Path, tmp_path: Path, nothing_left: None) -> None:
    recording = tmp_path / "run.jsonl"
    with two_workers(tiny, tmp_path, recording) as plane:
        # More than the slots of both, so that some still wait when they expire or are cancelled.
        steady = submit(plane, "steady", 160, max_tokens=256)
        hurried = submit(plane, "hurried", 40, max_tokens=256, timeout_ms=150.0)
        left = submit(plane, "left", 40, max_tokens=256)
        for handle in left[::2]:
            plane.cancel(handle.request_id)
        wait_for_tokens(steady[0], 20)
        os.kill(plane.worker("w1").describe()["pid"], signal.SIGKILL)
        for handle in left[1::2]:
            plane.cancel(handle.request_id)
        assert all(len(handle.result(120.0).token_ids) == 256 for handle in steady)
        kinds = {outcome_of(handle) for handle in hurried + left}
        assert {DeadlineExpired, RequestCancelled} <= kinds
    spec = load_pipeline(SERVING)
    again = replay(Recording(recording), spec)
    assert again.recorded is not None
    assert again.checked().same


def outcome_of(handle: object) -> type[BaseException] | None:
    try:
        handle.result(120.0)  # type: ignore[attr-defined]
    except (DeadlineExpired, RequestCancelled) as error:
        return type(error)
    return None
