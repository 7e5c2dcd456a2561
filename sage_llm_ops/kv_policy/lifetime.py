"""How long a block is worth keeping: when, and whether, it will be used again.

Blocks are sorted into classes by what a session leaves of them: how often they were used, and
whether they ended a prompt (the last block is rarely full, and the next turn of the session fills
it with other tokens under another key). For each class the hazard of reuse by age is estimated as
actuaries do it, so that blocks too young to have been used again are not counted as dead. Classes
with little evidence lean on all blocks together.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import final

from sage_llm_ops.kv_policy.history import AccessHistory, Use
from sage_llm_ops.types.errors import ConfigError, IntegrityError
from sage_llm_ops.types.kv import BlockKey

STEPS = 48
"""Intervals of age, each half as long again as the one before; the last is open."""
GROWTH = 1.5
LEAN = 20.0
"""Blocks' worth of evidence that all blocks together lend to a class."""
FADING = 0.8
"""From an interval to one that nothing has lived to see: reuse gets rarer, and does not end there."""
MOST_COUNTED = 5
REFIT_AFTER = 256

Class = tuple[int, bool]
Curve = list[float]

ALL: Class = (0, False)
"""All blocks together: no block has been used no times."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Seconds from now. What is not known is None: no block of any class was used again yet."""

    ttl_s: float | None
    """When `coverage` of the reuses within the horizon will have come; 0.0 where the block is not
    worth waiting for: its reuse is less than `floor` times as likely as any block's."""
    reuse: float | None
    """The probability of a reuse within the horizon."""
    median_s: float | None
    """Half of the reuses within the horizon will have come."""


@final
class LifetimePredictor:
    """Learns from every use; O(1) amortised, O(intervals) a prediction."""

    def __init__(
        self,
        history: AccessHistory,
        *,
        finest_s: float = 0.1,
        coverage: float = 0.9,
        floor: float = 0.4,
    ) -> None:
        if finest_s <= 0.0 or not 0.0 < coverage < 1.0 or not 0.0 <= floor <= 1.0:
            raise ConfigError(
                f"lifetime predictor: finest_s={finest_s} must be above 0, coverage={coverage} "
                f"between 0 and 1, floor={floor} at least 0 and at most 1"
            )
        self.history, self.coverage, self.floor = history, coverage, floor
        self._edges = [0.0, *(finest_s * GROWTH**step for step in range(STEPS - 1))]
        self._reuses: dict[Class, list[int]] = {}
        self._survival: dict[Class, Curve] = {}
        """Share of a class not yet used again at each edge."""
        self._seen = self._due = 0

    def note(self, key: BlockKey, now: float, *, tail: bool = False) -> None:
        """A use, which may be the reuse that a prediction waited for."""
        before = self.history.note(key, now, tail=tail)
        if before is not None:
            ages = self._reuses.setdefault(_class(before), [0] * STEPS)
            ages[self._interval(now - before.at)] += 1
        self._seen += 1
        if self._seen >= self._due:
            self._refit(now)
            # By a share of what a refit reads, so that each use pays the same.
            self._due = self._seen + max(REFIT_AFTER, len(self.history) // 4)

    def reuse_within(self, use: Use, now: float, horizon_s: float) -> float | None:
        """Probability that a block last used so is used again in the next `horizon_s` seconds."""
        curve = self._curve(use)
        return None if curve is None else self._fall(curve, max(0.0, now - use.at), horizon_s)

    def predict_ttl(self, key: BlockKey, now: float, horizon_s: float = math.inf) -> Lifetime:
        """For a block of the history; for others what is known of all blocks.

        The horizon is how long the pool keeps a block that nobody uses: a reuse after it is a miss
        whatever is predicted, and does not count.
        """
        use = self.history.get(key) or Use(now, 0, False)
        curve = self._curve(use)
        if curve is None:
            return Lifetime(None, None, None)
        age = max(0.0, now - use.at)
        alive = self._at(curve, age)
        coming = alive - self._at(curve, age + horizon_s)
        reuse = self._fall(curve, age, horizon_s)
        if coming <= 0.0:
            return Lifetime(0.0, reuse, None)
        worth = reuse >= self.floor * self._fall(self._survival[ALL], 0.0, horizon_s)
        median = max(0.0, self._age_at(curve, alive - 0.5 * coming) - age)
        ttl = max(0.0, self._age_at(curve, alive - self.coverage * coming) - age)
        return Lifetime(ttl if worth else 0.0, reuse, median)

    def check_integrity(self) -> None:
        self.history.check_integrity()
        for curve in self._survival.values():
            if curve != sorted(curve, reverse=True) or not 0.0 <= curve[-1] <= curve[0] == 1.0:
                raise IntegrityError("lifetime: a survival curve must fall from 1 and stay above 0")

    def _refit(self, now: float) -> None:
        idle: dict[Class, list[int]] = {}
        for use in self.history:
            idle.setdefault(_class(use), [0] * STEPS)[self._interval(now - use.at)] += 1
        classes = idle.keys() | self._reuses.keys()
        none = [0] * STEPS
        tables = {c: (self._reuses.get(c, none), idle.get(c, none)) for c in classes}
        pooled = tuple(map(_sums, zip(*tables.values(), strict=True)))
        if not sum(pooled[0]):
            return
        base = _hazard(pooled[0], pooled[1], None)
        self._survival = {ALL: _survival(base)}
        for found, (reuses, waiting) in tables.items():
            self._survival[found] = _survival(_hazard(reuses, waiting, base))

    def _fall(self, curve: Curve, age: float, horizon_s: float) -> float:
        alive = self._at(curve, age)
        return 1.0 - self._at(curve, age + horizon_s) / alive if alive > 0.0 else 0.0

    def _curve(self, use: Use) -> Curve | None:
        return self._survival.get(_class(use)) or self._survival.get(ALL)

    def _interval(self, age: float) -> int:
        return max(0, bisect_left(self._edges, age) - 1)

    def _at(self, curve: Curve, age: float) -> float:
        """Between two edges in proportion."""
        step = self._interval(age)
        if step >= STEPS - 1:
            return curve[-1]
        low, high = self._edges[step], self._edges[step + 1]
        return curve[step] + (curve[step + 1] - curve[step]) * (age - low) / (high - low)

    def _age_at(self, curve: Curve, share: float) -> float:
        """The age at which the curve has fallen to that share."""
        step = bisect_left(curve, -share, key=float.__neg__)
        if step == 0:
            return 0.0
        if step >= STEPS:
            return self._edges[-1]
        low, high = self._edges[step - 1], self._edges[step]
        fall = curve[step - 1] - curve[step]
        return low + (high - low) * ((curve[step - 1] - share) / fall if fall > 0.0 else 0.0)


def _class(use: Use) -> Class:
    return min(use.uses, MOST_COUNTED), use.tail


def _sums(rows: tuple[list[int], ...]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _hazard(reuses: list[int], waiting: list[int], base: Curve | None) -> Curve:
    """Of those that reached an interval unused, the share used again in it. Those whose age lies in
    the interval count half: that is how much of it they have lived through on average. Where few
    reached it, the share leans on that of `base`; without one, on the interval before, fading."""
    reached = list(accumulate(map(sum, zip(reversed(reuses), reversed(waiting), strict=True))))
    hazard: Curve = []
    for step, total in enumerate(reversed(reached)):
        risk = total - 0.5 * waiting[step]
        if base is not None:
            expected = base[step]
        else:
            expected = FADING * hazard[-1] if hazard else 0.0
        hazard.append(min(1.0, (reuses[step] + LEAN * expected) / (risk + LEAN)))
    return hazard


def _survival(hazard: Curve) -> Curve:
    """At the edges: STEPS values, the first 1.0. The open interval's hazard has no edge to end at
    and is left out."""
    kept = accumulate(hazard[:-1], lambda alive, risk: alive * (1.0 - risk), initial=1.0)
    return [share if math.isfinite(share) else 0.0 for share in kept]
