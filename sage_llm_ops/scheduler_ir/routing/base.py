"""The contract of a routing: choose one of the rows that have room.

Called by Route alone, from one thread, with at least one row. It may keep state of its own, but
reserves nothing: Route does, and the load is visible to the next choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class Choice(NamedTuple):
    """Which row, and what every candidate would have cost (smaller is better, same order as rows)."""

    row: int
    costs: npt.NDArray[np.float64]
    reason: str


class Routing(ABC):
    """Chooses a worker for an offer."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    unit: ClassVar[str]
    """What the costs count, for people who read the ledger."""

    @abstractmethod
    def choose(self, offer: Offer, fleet: FleetView, rows: npt.NDArray[np.intp]) -> Choice:
        """One of `rows`; ties are broken the same way in every process."""
