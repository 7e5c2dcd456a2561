"""From the graph's counters to the numbers a manager reports."""

from __future__ import annotations

import time

from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.operators.measure import Measure
from sage_llm_ops.types.metrics import PerformanceMetrics


def measured(control: ControlPlane) -> PerformanceMetrics:
    """What was measured so far; without a Measure that is enabled only what came in is known."""
    metrics = control.pipeline.plane.metrics
    came = metrics.accepted + metrics.refused
    if not _counts(control):
        return PerformanceMetrics(total_requests=came)
    total = metrics.total()
    elapsed = _elapsed(control)
    return PerformanceMetrics(
        total_requests=came,
        completed_requests=total.completed,
        failed_requests=total.failed,
        cancelled_requests=total.cancelled,
        avg_latency_ms=_ms(total.latency.mean),
        p95_latency_ms=_ms(total.latency.quantile(0.95)),
        p99_latency_ms=_ms(total.latency.quantile(0.99)),
        tokens_per_second=_per(total.output_tokens, elapsed),
        requests_per_second=_per(total.completed, elapsed),
        slo_violations=metrics.slo_violations,
        slo_compliance_rate=(
            1.0 - metrics.slo_violations / metrics.slo_counted if metrics.slo_counted else None
        ),
        cache_hit_rate=(
            100.0 * total.cached_tokens / total.prompt_tokens if total.prompt_tokens else None
        ),
        workers=metrics.table(),
        prefix=control.pipeline.prefixes() or None,
        costs=control.pipeline.plane.costs.report(),
    )


def _counts(control: ControlPlane) -> bool:
    operators = control.pipeline.operators.values()
    return any(isinstance(each, Measure) and each.options.enabled for each in operators)


def _elapsed(control: ControlPlane) -> float | None:
    """Seconds it has taken, or took, requests."""
    if control.started_at is None:
        return None
    return (control.stopped_at or time.monotonic()) - control.started_at


def _per(count: int, seconds: float | None) -> float | None:
    if seconds is None:
        return None
    return count / seconds if seconds else 0.0


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
