"""One measured number, and the table of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Metric:
    """The median of its samples, with their spread. `n` counts samples unless a suite's
    `WORKLOAD` says what else it counts."""

    value: float
    unit: str
    n: int
    min: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float], unit: str, n: int | None = None) -> Metric:
        """From at least one sample."""
        return cls(median(samples), unit, n or len(samples), min(samples), max(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below which `share` of them lie."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(title: str, metrics: Mapping[str, Metric]) -> Table:
    """For people."""
    out = Table("metric", "value", "unit", "min", "max", "n", title=title, title_justify="left")
    for name, metric in metrics.items():
        numbers = (f"{x:.4g}" if abs(x) < 1000 else f"{x:,.0f}" for x in (metric.min, metric.max))
        value = f"{metric.value:.4g}" if abs(metric.value) < 1000 else f"{metric.value:,.0f}"
        out.add_row(name, value, metric.unit, *numbers, f"{metric.n:,}")
    return out
