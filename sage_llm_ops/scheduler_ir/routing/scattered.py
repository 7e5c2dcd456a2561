"""Choices by a hash of the request's id."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing, Rows, least, load_share
from sage_llm_ops.scheduler_ir.routing.keys import of_id
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class Random(Routing):
    """Any row, by a hash of the request's id and attempt: as good as a die, and replayable."""

    name: ClassVar[str] = "random"
    unit: ClassVar[str] = "0 for the one drawn"

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        job = offer.job
        drawn = of_id(job.request, job.attempt) % rows.size
        costs = np.ones(rows.size)
        costs[drawn] = 0.0
        return Choice(int(rows[drawn]), costs, "drawn by the request's id")


class PowerOfTwo(Routing):
    """The less loaded of two that the request's id draws: nearly as even as looking at all, and no
    herd runs after the one that looks idle."""

    name: ClassVar[str] = "power_of_two"
    unit: ClassVar[str] = "share of slots in use, 9 for those not drawn"

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        n, job = rows.size, offer.job
        key = of_id(job.request, job.attempt)
        first = key % n
        second = (first + 1 + key // n % (n - 1)) % n if n > 1 else first
        pair = np.array(sorted({first, second}))
        costs = np.full(n, 9.0)
        costs[pair] = load_share(fleet, rows[pair])
        row = least(costs[pair], fleet, rows[pair])
        return Choice(row, costs, "less loaded of two")
