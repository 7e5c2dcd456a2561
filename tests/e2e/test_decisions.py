"""Decisions that real vLLM workers must show: who goes first, and how long a prompt takes."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median

import pytest

from sage_llm_ops import RequestMetadata, RequestPriority
from sage_llm_ops.core import ControlPlane, serving
from sage_llm_ops.cost_model import prefill_ms
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


def test_ttft_of_fresh_requests_is_predicted(
    tiny: Path, tmp_path: Path, nothing_left: None
) -> None:
    """Calibrated on a live worker's own steps: median error under a fifth over 200 fresh ones."""
    rng = random.Random(4)
    plane = ControlPlane(serving(), default_engine="vllm", log_dir=tmp_path)
    plane.register(instance("w0", tiny))
    try:
        plane.start()

        def ask(number: int) -> tuple[int, float]:
            length = rng.randrange(16, 900)
            ids = [rng.randrange(10, 200) for _ in range(length)]
            sampling = {"max_tokens": 3, "temperature": 0.0, "ignore_eos": True}
            request = RequestMetadata(
                request_id=f"r{number}", prompt_token_ids=ids, sampling_params=sampling
            )
            timings = plane.submit(request).result(60.0).timings
            assert timings.ttft_s is not None
            return length, timings.ttft_s * 1e3

        for number in range(200):
            ask(number)
        errors = []
        for number in range(200, 400):
            traits = plane.pipeline.plane.fleet.traits
            predicted = traits.ms[:, 0].copy()
            length, measured = ask(number)
            errors.append(abs(prefill_ms(predicted, length) / measured - 1.0))
        (row,) = plane.pipeline.plane.costs.report()
        print(f"median error {median(errors):.1%} of 200; {row}")
        assert traits.known[0]
        assert median(errors) < 0.2
    finally:
        plane.stop(5.0)
