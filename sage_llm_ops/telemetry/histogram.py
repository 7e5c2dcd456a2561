"""Quantiles of a stream of positive numbers in constant memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

_GROWTH = log(1.02)
_LOWEST = 1e-6
_BUCKETS = 1400
"""2 % wide buckets from one microsecond to 1e6 seconds: a quantile is off by at most 1 %."""


class Histogram:
    """Logarithmic buckets; what is below the lowest counts as the lowest."""

    __slots__ = ("_buckets", "count", "total")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        index = 0 if value <= _LOWEST else min(_BUCKETS, int(log(value / _LOWEST) / _GROWTH))
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self.total += value
        self.count += 1  # last: a reader on another thread must find as many in the buckets

    def merge(self, other: Histogram) -> None:
        """Count what another one counted; `other` may be growing on another thread."""
        for index, count in list(other._buckets.items()):
            self._buckets[index] = self._buckets.get(index, 0) + count
        self.count = sum(self._buckets.values())
        self.total += other.total

    def below(self, bounds: Sequence[float]) -> tuple[list[int], int, float]:
        """How many values were at most each bound (ascending), how many there are, and their sum.

        A value is taken for its bucket's middle. May grow on another thread: the counts fit each
        other, the sum may be a value ahead.
        """
        buckets = sorted(self._buckets.copy().items())
        counts, seen, at = [], 0, 0
        for bound in bounds:
            while at < len(buckets) and _middle(buckets[at][0]) <= bound:
                seen += buckets[at][1]
                at += 1
            counts.append(seen)
        return counts, seen + sum(count for _, count in buckets[at:]), self.total

    @property
    def mean(self) -> float | None:
        """None before the first value."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The value below which `share` of all values lie; None before the first value."""
        if not self.count:
            return None
        rank = share * (self.count - 1)
        seen = 0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if seen > rank:
                return _middle(index)
        raise AssertionError("rank beyond count")


def _middle(index: int) -> float:
    return _LOWEST * exp((index + 0.5) * _GROWTH)
