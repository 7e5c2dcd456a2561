"""Least loaded first."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class LoadBalanced(Routing):
    """The smallest share of slots in use; among equals the one that was given least so far.

    The second rule keeps a trickle of requests, each finding the fleet idle, from landing on the
    first worker for ever.
    """

    name: ClassVar[str] = "load_balanced"
    unit: ClassVar[str] = "share of slots in use"

    def choose(self, offer: Offer, fleet: FleetView, rows: npt.NDArray[np.intp]) -> Choice:
        costs = fleet.running[rows] / fleet.slots[rows]
        best = int(costs.argmin())
        ties = (costs == costs[best]).nonzero()[0]
        if ties.size > 1:
            best = int(ties[fleet.assigned[rows[ties]].argmin()])
        return Choice(int(rows[best]), costs, "least loaded")
