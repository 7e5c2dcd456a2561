"""Each in turn."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing, Rows
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class RoundRobin(Routing):
    """The next row after the last one chosen, among those with room."""

    name: ClassVar[str] = "round_robin"
    unit: ClassVar[str] = "turns until its turn"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._last = -1
        """A place in the circle and nobody's own: whoever sits there has the turn that comes."""

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        costs = ((rows - self._last - 1) % len(fleet.ids)).astype(np.float64)
        row = int(rows[costs.argmin()])
        self._last = row
        return Choice(row, costs, "its turn")


class WeightedRoundRobin(Routing):
    """Smooth weighted turns (nginx's): in proportion to slots, never many in a row.

    Everybody's credit grows by its slots, the richest goes and pays what all were given together. A
    row without room gets no credit meanwhile, a worker in the row of another none of the other's.
    """

    name: ClassVar[str] = "weighted_round_robin"
    unit: ClassVar[str] = "negative credit"

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._credit = np.zeros(0, dtype=np.int64)
        self._whose = np.zeros(0, dtype=np.uint64)
        """By row: `mix` of the worker whose credit it is."""

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        missing = len(fleet.ids) - self._credit.size
        if missing > 0:
            self._credit = np.concatenate([self._credit, np.zeros(missing, dtype=np.int64)])
            self._whose = np.concatenate([self._whose, np.zeros(missing, dtype=np.uint64)])
        mix = fleet.traits.mix[rows]
        strangers = self._whose[rows] != mix
        if strangers.any():
            self._credit[rows[strangers]] = 0
            self._whose[rows] = mix
        weights = fleet.slots[rows]
        self._credit[rows] += weights
        credit = self._credit[rows]
        row = int(rows[credit == credit.max()][0])
        self._credit[row] -= int(weights.sum())
        return Choice(row, -credit.astype(np.float64), "its turn by weight")
