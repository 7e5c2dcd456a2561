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
        # Not argmin: it gives up the GIL however short the array is, and with a busy caller's
        # thread beside us every decision would then wait for that thread's turn to end.
        ties = rows[costs == costs.min()]
        if ties.size > 1:
            given = fleet.assigned[ties]
            ties = ties[given == given.min()]
        return Choice(int(ties[0]), costs, "least loaded")
