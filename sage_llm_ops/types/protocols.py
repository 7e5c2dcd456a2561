"""What one pure room may know of another: they meet here, not in each other's modules."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.ids import Needs, WorkerId
from sage_llm_ops.types.requests import Request


class WorkerTraits(Protocol):
    """What is known of each worker beside its load; see `fleet/traits.py`."""

    ms: npt.NDArray[np.float64]
    known: npt.NDArray[np.bool_]
    price: npt.NDArray[np.float64]
    role: npt.NDArray[np.int8]
    splits: npt.NDArray[np.bool_]
    fetches: npt.NDArray[np.bool_]
    response_ms: npt.NDArray[np.float64]
    mix: npt.NDArray[np.uint64]
    place: list[tuple[str, ...]]
    pools: bool


class FleetView(Protocol):
    """The fleet as a routing reads it: one row a worker. A row may be another worker's after the
    first has left: what is kept by row from one choice to the next is kept with `traits.mix`."""

    ids: list[WorkerId]
    rows: dict[WorkerId, int]
    slots: npt.NDArray[np.int64]
    """Nodes a worker takes at a time."""
    running: npt.NDArray[np.int64]
    """Nodes it holds now, reservations of this very moment included."""
    tokens: npt.NDArray[np.int64]
    """Tokens those nodes may come to."""
    assigned: npt.NDArray[np.int64]
    """Nodes it was ever given."""
    work_us: npt.NDArray[np.int64]
    """Prefill that its nodes still have before them."""

    def serving(self, needs: Needs) -> npt.NDArray[np.intp]:
        """Rows of the workers that are up and serve `needs`."""

    def with_room(self, needs: Needs, excluded: tuple[WorkerId, ...] = ()) -> npt.NDArray[np.intp]:
        """Those of them that can take one more node; the excluded only if there is no other."""

    @property
    def traits(self) -> WorkerTraits:
        """What else is known of the workers."""


class Outlook(Protocol):
    """What is expected of a request, as far as anybody knows."""

    def service_s(self, request: Request, delivered: int, *, cheapest: bool = False) -> float:
        """Seconds from a place to the end; on the cheapest worker that may take it."""

    def took(self, request: Request, seconds: float) -> None:
        """One that completed took so long from its place to its end: what comes may take as much
        more, or less, than was expected."""


class RoughOutlook:
    """Where no worker has told how fast it is: only the proportions are right, so orders by length
    work; a latest start is off by what a token really costs."""

    PREFILL_S, DECODE_S = 2e-4, 2e-2

    def service_s(self, request: Request, delivered: int, *, cheapest: bool = False) -> float:
        """A fifth of a millisecond a prompt token, 20 ms a generated one."""
        left = request.max_tokens - delivered if request.task == "generate" else 0
        return self.PREFILL_S * request.n_prompt + self.DECODE_S * left

    def took(self, request: Request, seconds: float) -> None:
        """It stays rough."""
