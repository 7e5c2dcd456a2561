"""Least loaded first."""

from __future__ import annotations

from typing import ClassVar

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing, Rows, least
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


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

    A worker that has not answered yet counts as the mean of the others.
    """

    name: ClassVar[str] = "least_response_time"
    unit: ClassVar[str] = "ms * nodes"
    watches: ClassVar[bool] = True

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        took = fleet.traits.response_ms[rows]
        answered = took > 0.0
        if not answered.all():
            took[~answered] = took[answered].mean() if answered.any() else 1.0
        costs = took * (fleet.running[rows] + 1)
        return Choice(least(costs, fleet, rows), costs, "shortest response time")
