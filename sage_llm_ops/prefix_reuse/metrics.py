"""What prefix reuse brought, and what it could have brought. Numbers are tokens."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from sage_llm_ops.telemetry.histogram import Histogram

MAX_ROWS = 1000
OTHERS = "(others)"
"""Row of the tenants beyond that, and, when it is reached, of the workers that are not here any more:
ids come and go for months."""


class Reuse:
    """Sums over requests whose worker has answered.

    `achieved`  came out of its worker's cache, by the worker's own account
    `reachable` its best worker had, as far as was known when it was placed
    `ideal`     a cache that forgets nothing and is everywhere would have had
    `avoidable` prefill done although another worker had it: reachable, less achieved
    `overclaimed` was said to be on the chosen worker, and was not
    """

    __slots__ = (
        "achieved",
        "avoidable",
        "claimed",
        "ideal",
        "overclaimed",
        "prompt",
        "reachable",
        "requests",
    )

    def __init__(self) -> None:
        self.requests = self.prompt = self.achieved = self.reachable = self.ideal = 0
        self.avoidable = self.claimed = self.overclaimed = 0

    def add(self, prompt: int, achieved: int, claimed: int, reachable: int, ideal: int) -> None:
        """One request. What nobody knew of can be achieved too; it was reachable then."""
        self.requests += 1
        self.prompt += prompt
        self.achieved += achieved
        self.claimed += claimed
        self.reachable += max(reachable, achieved)
        self.ideal += max(ideal, reachable, achieved)
        self.avoidable += max(0, reachable - achieved)
        self.overclaimed += max(0, claimed - achieved)

    def merge(self, other: Reuse) -> None:
        """What another one summed."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def row(self) -> dict[str, Any]:
        """Plain numbers, with the shares that people ask for."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        for name in ("achieved", "reachable", "ideal"):
            out[f"{name}_share"] = _share(getattr(self, name), self.prompt)
        out["staleness"] = _share(self.overclaimed, self.claimed)
        return out


class PrefixReuseMetrics:
    """Written by the view; readers see whole numbers, not a consistent cut. `here`: the workers that
    are up."""

    def __init__(self, here: Container[str] = ()) -> None:
        self._here = here
        self.lookups = 0
        self.hits = 0
        """Lookups that found any worker with some of the prompt."""
        self.matched = 0
        """Tokens that the best worker had, over all of them."""
        self.lookup_s = Histogram()
        """Only a live run measures it: nothing here reads a clock."""
        self.total = Reuse()
        self.tenants: dict[str, Reuse] = {}
        self.workers: dict[str, Reuse] = {}

    def looked_up(self, best: int) -> None:
        """One lookup, and what the best worker has."""
        self.lookups += 1
        self.hits += best > 0
        self.matched += best

    def answered(
        self,
        tenant: str,
        worker: str,
        prompt: int,
        achieved: int,
        claimed: int,
        reachable: int,
        ideal: int,
    ) -> None:
        """A worker said how much of the prompt it had."""
        if worker not in self.workers and len(self.workers) >= MAX_ROWS:
            self._fold()
        for table, named in ((self.tenants, tenant), (self.workers, worker)):
            name = named if named in table or len(table) < MAX_ROWS else OTHERS
            if name not in table:
                table[name] = Reuse()
            table[name].add(prompt, achieved, claimed, reachable, ideal)
        self.total.add(prompt, achieved, claimed, reachable, ideal)

    def _fold(self) -> None:
        kept, others = dict[str, Reuse](), Reuse()
        for name, reuse in self.workers.items():
            if name in self._here:
                kept[name] = reuse
            else:
                others.merge(reuse)
        self.workers = {**kept, OTHERS: others}

    def row(self, conflicts: int = 0) -> dict[str, Any]:
        """What was not measured is None."""
        p50, p99 = self.lookup_s.quantile(0.50), self.lookup_s.quantile(0.99)
        return {
            "lookups": self.lookups,
            "hits": self.hits,
            "hit_rate": _share(self.hits, self.lookups),
            "matched_tokens": self.matched,
            "mean_matched_tokens": _share(self.matched, self.lookups),
            "lookup_p50_us": None if p50 is None else p50 * 1e6,
            "lookup_p99_us": None if p99 is None else p99 * 1e6,
            "conflicts": conflicts,
            "conflict_rate": _share(conflicts, self.lookups),
            "total": self.total.row(),
            "tenants": {name: reuse.row() for name, reuse in sorted(self.tenants.copy().items())},
            "workers": {name: reuse.row() for name, reuse in sorted(self.workers.copy().items())},
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
