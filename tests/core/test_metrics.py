"""R14: what was measured is reported, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from sage_llm_ops import PerformanceMetrics
from sage_llm_ops.cost_model import Step
from sage_llm_ops.types.errors import RequestError
from tests.core.fleets import held, request, simulated


def unmeasured(metrics: PerformanceMetrics) -> set[str]:
    """Names of the fields that are None."""
    names = [field.name for field in dataclasses.fields(metrics)]
    return {name for name in names if getattr(metrics, name) is None}


LATENCIES = {"avg_latency_ms", "p95_latency_ms", "p99_latency_ms"}
RATES = {"tokens_per_second", "requests_per_second"}
NEVER = {"gpu_utilization"}


async def test_before_it_runs_there_are_no_rates() -> None:
    async with simulated() as manager:
        metrics = manager.get_metrics()
        shares = {"slo_compliance_rate", "cache_hit_rate"}
        assert unmeasured(metrics) == {*LATENCIES, *RATES, *NEVER, *shares}
        assert (metrics.total_requests, metrics.completed_requests) == (0, 0)


async def test_rates_are_zero_once_it_runs_and_can_be_formatted() -> None:
    async with simulated() as manager:
        await manager.start()
        metrics = manager.get_metrics()
        assert f"{metrics.requests_per_second:.2f} {metrics.tokens_per_second:.2f}" == "0.00 0.00"
        assert metrics.throughput == 0.0
        assert metrics.avg_latency is None


async def test_what_completed_is_counted() -> None:
    async with simulated() as manager:
        for _ in range(3):
            await manager.process_request("x" * 200, {"max_tokens": 10})
        metrics = manager.get_metrics()
        assert (metrics.total_requests, metrics.completed_requests) == (3, 3)
        assert unmeasured(metrics) == {*NEVER, "slo_compliance_rate"}
        assert metrics.avg_latency == metrics.avg_latency_ms
        assert metrics.throughput == pytest.approx(metrics.requests_per_second)
        assert metrics.requests_per_second is not None and metrics.requests_per_second > 0.0
        assert metrics.tokens_per_second == pytest.approx(10 * metrics.requests_per_second, rel=0.2)
        assert metrics.cache_hit_rate == pytest.approx(100 * 2 * 192 / 600)
        assert metrics.workers["sim-0"] == metrics.workers["total"]


async def test_failed_and_cancelled_are_counted_apart() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("failed"))
        fleet["w0"].wait_for("failed")
        fleet["w0"].break_on("failed", "invalid_request")
        await manager.submit_request(request("cancelled"))
        fleet["w0"].wait_for("cancelled")
        await manager.cancel_request("cancelled")
        for name in ("failed", "cancelled"):
            with pytest.raises(RequestError):
                await manager.wait_for_result(name, 10.0)
        metrics = manager.get_metrics()
        assert (metrics.total_requests, metrics.completed_requests) == (2, 0)
        assert (metrics.failed_requests, metrics.cancelled_requests) == (1, 1)
        assert f"{metrics.requests_per_second:.2f}" == "0.00"
        assert unmeasured(metrics) >= LATENCIES, "nothing that completed, nothing to average"


async def test_a_missed_objective_counts_and_the_request_completes() -> None:
    async with simulated(sim={"speed": 1.0}) as manager:
        late = await manager.process_request("Hello", {"max_tokens": 1}, slo_deadline_ms=0.001)
        assert late.finish_reason == "length"
        assert manager.get_metrics().slo_compliance_rate == 0.0
        await manager.process_request("Hello", {"max_tokens": 1}, slo_deadline_ms=60_000)
        await manager.process_request("Hello", {"max_tokens": 1})
        metrics = manager.get_metrics()
        assert (metrics.slo_violations, metrics.slo_compliance_rate) == (1, 0.5)


async def test_a_failed_request_misses_its_objective_and_a_cancelled_one_says_nothing() -> None:
    async with held("w0") as (manager, fleet):
        for name in ("failed", "cancelled"):
            await manager.submit_request(request(name, slo_deadline_ms=60_000))
            fleet["w0"].wait_for(name)
        fleet["w0"].break_on("failed", "invalid_request")
        await manager.cancel_request("cancelled")
        for name in ("failed", "cancelled"):
            with pytest.raises(RequestError):
                await manager.wait_for_result(name, 10.0)
        metrics = manager.get_metrics()
        assert (metrics.slo_violations, metrics.slo_compliance_rate) == (1, 0.0)


async def test_without_monitoring_nothing_looks_measured() -> None:
    async with simulated(enable_monitoring=False) as manager:
        await manager.process_request("Hello", {"max_tokens": 1}, slo_deadline_ms=0.001)
        metrics = manager.get_metrics()
        known = {field.name for field in dataclasses.fields(metrics)} - unmeasured(metrics)
        assert known == {"total_requests", "workers"}
        assert (metrics.total_requests, metrics.workers) == (1, {})


async def test_rates_stay_where_they_were_when_it_stopped() -> None:
    async with simulated() as manager:
        await manager.process_request("Hello", {"max_tokens": 1})
        await manager.stop()
        first, second = manager.get_metrics(), manager.get_metrics()
        assert first.requests_per_second == second.requests_per_second


async def test_the_cost_model_reports_its_error() -> None:
    """Regression: it knew how far off it was, and nobody could ask."""
    async with simulated() as manager:
        await manager.process_request("x", {"max_tokens": 1})  # after it the graph knows the worker
        (row,) = manager.get_metrics().costs or ()
        assert row["class"].endswith("|sim|1")
        assert (row["steps"], row["median_error"]) == (0, None)
        plane = manager.control.pipeline.plane
        (kind,) = set(plane.classes.values())
        plane.costs.learn(kind, [(Step(decodes=4, context=400), 12.0)])
        (row,) = manager.get_metrics().costs or ()
        assert row["steps"] == 1
        assert row["median_error"] > 0.0
