"""The most reuse that an even load allows."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing, Rows, least
from sage_llm_ops.scheduler_ir.routing.held import held
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class BoundedPrefixOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker may have been given `factor` times the mean of the prompt tokens that were in no cache,
    and `slack_tokens` besides; what was given `memory_tokens` (of the whole fleet) ago counts half."""

    factor: float = 1.25
    slack_tokens: int = 65_536
    memory_tokens: int = 1 << 40

    def __post_init__(self) -> None:
        if not self.factor >= 1.0:
            raise ValueError(f"factor={self.factor!r} must be at least 1")
        if self.slack_tokens < 0 or self.memory_tokens < 1:
            raise ValueError(
                f"slack_tokens={self.slack_tokens} must be 0 or more and "
                f"memory_tokens={self.memory_tokens} at least 1"
            )


class BoundedPrefix(Routing):
    """Where most of the prompt is, unless that worker was given too much of the uncached tokens so far;
    among equals the one that was given least. For fleets whose memory is dearer than their time:
    `predicted_latency` gives up reuse where computing again is quicker."""

    name: ClassVar[str] = "bounded_prefix"
    unit: ClassVar[str] = "prompt tokens to compute; those over the bound behind all others"
    Options = BoundedPrefixOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._given = np.zeros(8)
        """Uncached prompt tokens, by row."""
        self._known = 0
        """Rows that have a number."""

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        self._meet(len(fleet.ids))
        request = offer.job.request
        everyone = fleet.serving(offer.job.needs)
        given = self._given[rows]
        bound = self.options.factor * self._given[everyone].mean() + self.options.slack_tokens
        costs = float(request.n_prompt) - np.minimum(held(offer, fleet, rows), request.n_prompt)
        over = given > bound
        ranked = costs + (over & ~over.all()) * (1.0 + costs.max())
        best = rows[ranked == ranked.min()]
        fewest = self._given[best]
        row = least(fewest, fleet, best)
        self._give(row, float(costs[rows == row][0]))
        said = f"; {int(over.sum())} over the bound" if over.any() else ""
        return Choice(row, ranked, f"has most of its prompt{said}")

    def _give(self, row: int, tokens: float) -> None:
        self._given *= 0.5 ** (tokens / self.options.memory_tokens)
        self._given[row] += tokens

    def _meet(self, count: int) -> None:
        """Who is new starts with the mean: it is not given everything until it has caught up."""
        if count <= self._known:
            return
        if count > len(self._given):
            self._given = np.concatenate([self._given, np.zeros(count)])
        mean = self._given[: self._known].mean() if self._known else 0.0
        self._given[self._known : count] = mean
        self._known = count
