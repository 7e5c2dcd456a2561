"""Decisions that real vLLM workers must show: who goes first, and what a worker says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_llm_ops import RequestMetadata, RequestPriority
from sage_llm_ops.core import ControlPlane, serving
from tests.e2e.fleet import instance

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.mark.parametrize("policy", ["priority", "adaptive"])
def test_critical_overtakes_low_on_a_real_worker(
    policy: str, tiny: Path, tmp_path: Path, nothing_left: None
) -> None:
    """Ten LOW, then ten CRITICAL, to one slot."""
    plane = ControlPlane(serving(scheduling_policy=policy), default_engine="vllm", log_dir=tmp_path)
    plane.register(instance("w0", tiny, max_concurrency=1))
    try:
        plane.start()
        order = []
        for name in ("LOW", "CRITICAL"):
            for number in range(10):
                request = RequestMetadata(
                    request_id=f"{name}-{number}",
                    prompt="x" * 40,
                    priority=RequestPriority[name],
                    sampling_params={"max_tokens": 24, "temperature": 0.0, "ignore_eos": True},
                )
                order.append(plane.submit(request))
        ended = sorted(order, key=lambda handle: handle.result(60.0).timings.placed or 0.0)
        names = [handle.request_id.split("-")[0] for handle in ended]
        began = names.index("CRITICAL")
        assert names[began : began + 10] == ["CRITICAL"] * 10
        assert began < 5, "only what had its place before they came goes before them"
    finally:
        plane.stop(5.0)


def test_a_worker_tells_its_steps_and_the_plane_learns_from_them(
    tiny: Path, tmp_path: Path, nothing_left: None
) -> None:
    """How well is measured by the suite `costs`: this machine may be busy."""
    plane = ControlPlane(serving(), default_engine="vllm", log_dir=tmp_path)
    plane.register(instance("w0", tiny))
    try:
        plane.start()
        traits = plane.pipeline.plane.fleet.traits
        guess = traits.ms[:, 0].copy()
        sampling = {"max_tokens": 3, "temperature": 0.0, "ignore_eos": True}
        for number in range(40):
            ids = [10 + (number * 7 + place) % 190 for place in range(16 + 20 * number)]
            request = RequestMetadata(prompt_token_ids=ids, sampling_params=sampling)
            plane.submit(request).result(60.0)
        (row,) = plane.pipeline.plane.costs.report()
        assert row["steps"] >= 40 and row["median_error"] is not None
        assert traits.known[0]
        assert (traits.ms[:, 0] != guess).any()
    finally:
        plane.stop(5.0)
