"""Quantiles: how far off, and what is unmeasured."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.telemetry.histogram import Histogram


@given(
    values=st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=200),
    share=st.sampled_from([0.0, 0.5, 0.95, 0.99]),
)
@settings(max_examples=80, deadline=None)
def test_a_quantile_is_off_by_at_most_one_percent(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[int(share * (len(values) - 1))]
    assert histogram.quantile(share) == pytest.approx(exact, rel=0.0101)
    assert histogram.mean == pytest.approx(sum(values) / len(values))


def test_nothing_measured_is_none() -> None:
    assert Histogram().quantile(0.5) is None
    assert Histogram().mean is None


def test_zero_and_below_count_as_the_lowest() -> None:
    histogram = Histogram()
    for value in (0.0, -1.0):
        histogram.add(value)
    assert histogram.quantile(0.99) == pytest.approx(1e-6, rel=0.02)


def test_memory_is_bounded_and_merging_adds() -> None:
    one, other = Histogram(), Histogram()
    for n in range(20_000):
        one.add(1e-7 * 1.01**n if n < 3000 else 1e9)
        other.add(1.0)
    one.merge(other)
    assert one.count == 40_000
    assert len(one._buckets) <= 1401


def test_what_is_no_number_is_not_counted() -> None:
    """A reader on another thread relies on it: as many in the buckets as in the count."""
    histogram = Histogram()
    with pytest.raises(ValueError):
        histogram.add(float("nan"))
    assert histogram.count == 0
