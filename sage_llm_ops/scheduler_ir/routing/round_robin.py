"""Each in turn."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class RoundRobin(Routing):
    """The next row after the last one chosen, among those with room."""

    name: ClassVar[str] = "round_robin"
    unit: ClassVar[str] = "turns until its turn"

    def __init__(self) -> None:
        self._last = -1

    def choose(self, offer: Offer, fleet: FleetView, rows: npt.NDArray[np.intp]) -> Choice:
        costs = ((rows - self._last - 1) % len(fleet.ids)).astype(np.float64)
        row = int(rows[costs.argmin()])
        self._last = row
        return Choice(row, costs, "its turn")
