"""The numbers a manager reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PerformanceMetrics:
    """Measured, or None. Rates are 0.0 once the manager runs. Percentages are 0 to 100.

    Without monitoring `total_requests` alone is known.
    """

    total_requests: int = 0
    completed_requests: int | None = None
    failed_requests: int | None = None
    cancelled_requests: int | None = None
    avg_latency_ms: float | None = None
    p95_latency_ms: float | None = None
    p99_latency_ms: float | None = None
    tokens_per_second: float | None = None
    requests_per_second: float | None = None
    slo_violations: int | None = None
    slo_compliance_rate: float | None = None
    """Share of the requests with an objective that met it, 0 to 1; None while there was none."""
    gpu_utilization: float | None = None
    cache_hit_rate: float | None = None
    """Cached share of the prompt tokens of completed requests, in percent."""
    workers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """One row a worker and one `total`: counts, and p50, p95, p99 of TTFT, TPOT, queue, latency."""
    prefix: dict[str, Any] | None = None
    """What prefix reuse brought and could have brought, in total, by tenant and by worker (see
    `prefix_reuse/metrics.py`); None where nobody looks prefixes up."""

    costs: list[dict[str, Any]] | None = None
    """How well the cost model knows each class of workers: steps learnt, outliers, the median relative
    error of its latest predictions (None before the first), coefficients."""

    @property
    def throughput(self) -> float | None:
        """The same as `requests_per_second`."""
        return self.requests_per_second

    @property
    def avg_latency(self) -> float | None:
        """The same as `avg_latency_ms`."""
        return self.avg_latency_ms
