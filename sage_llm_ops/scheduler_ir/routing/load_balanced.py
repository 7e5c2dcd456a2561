"""Least loaded first."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing, Rows, least
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView

FADES = 64


class LoadBalanced(Routing):
    """The smallest share of slots in use; among equals the one that was given least so far."""

    name: ClassVar[str] = "load_balanced"
    unit: ClassVar[str] = "share of slots in use"

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        costs = fleet.running[rows] / fleet.slots[rows]
        return Choice(least(costs, fleet, rows), costs, "least loaded")


class LeastConnections(Routing):
    """The fewest nodes held, whatever the worker's size. For fleets of equal workers."""

    name: ClassVar[str] = "least_connections"
    unit: ClassVar[str] = "nodes held"

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        costs = fleet.running[rows].astype(float)
        return Choice(least(costs, fleet, rows), costs, "fewest nodes")


class LeastResponseTime(Routing):
    """The shortest of: how long its requests took lately, times those it would have.

    A worker that has not answered yet counts as the mean of the others. What one took counts half once
    `FADES` turns went to each of the others: who was slow for a while is tried again.
    """

    name: ClassVar[str] = "least_response_time"
    unit: ClassVar[str] = "ms * nodes"
    watches: ClassVar[bool] = True

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._turn = 0
        self._chosen = np.zeros(0, dtype=np.int64)
        """Turn in which each row was the choice for the last time."""

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        took = fleet.traits.response_ms[rows]
        answered = took > 0.0
        if not answered.all():
            took[~answered] = took[answered].mean() if answered.any() else 1.0
        new = len(fleet.ids) - self._chosen.size
        if new > 0:
            self._chosen = np.concatenate([self._chosen, np.full(new, self._turn)])
        passed_over = self._turn - self._chosen[rows]
        costs = took * (fleet.running[rows] + 1) * 0.5 ** (passed_over / (FADES * rows.size))
        row = least(costs, fleet, rows)
        self._turn += 1
        self._chosen[row] = self._turn
        return Choice(row, costs, "shortest response time")
