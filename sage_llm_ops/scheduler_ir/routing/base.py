"""The contract of a routing: choose one of the rows that have room.

Called by Route alone, from one thread, with at least one row. It may keep state of its own, but
reserves nothing: Route does, and the load is visible to the next choice. Nothing here is random:
where a choice has to be scattered, a hash of the request's id scatters it, the same in a replay.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView

Rows = npt.NDArray[np.intp]
Costs = npt.NDArray[np.float64]


class NoRoutingOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For routings that have none."""


class Choice(NamedTuple):
    """Which row, and what every candidate would have cost (smaller is better, same order as rows)."""

    row: int
    costs: Costs
    reason: str


class Routing(ABC):
    """Chooses a worker for an offer."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    unit: ClassVar[str]
    """What the costs count, for people who read the ledger."""
    Options: ClassVar[type[msgspec.Struct]] = NoRoutingOptions

    predicts: ClassVar[bool] = False
    """Whether it reads `work_us`: keeping it costs a prediction with every placement."""
    watches: ClassVar[bool] = False
    """Whether it reads `response_ms`."""

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @abstractmethod
    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        """One of `rows`; ties are broken the same way in every process."""


def least(costs: Costs, fleet: FleetView, rows: Rows) -> int:
    """The row of the smallest cost; among equals the one that was given least so far, then the
    first: a trickle of requests, each finding the fleet idle, is not all for the first worker.

    Not argmin: it gives up the GIL however short the array is, and with a busy caller's thread
    beside us every decision would then wait for that thread's turn to end.
    """
    ties = rows[costs == costs.min()]
    if ties.size > 1:
        given = fleet.assigned[ties]
        ties = ties[given == given.min()]
    return int(ties[0])


def load_share(fleet: FleetView, rows: Rows) -> Costs:
    """Share of its slots that each row has in use."""
    shares: Costs = fleet.running[rows] / fleet.slots[rows]
    return shares
