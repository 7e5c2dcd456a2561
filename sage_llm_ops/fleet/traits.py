"""What a routing may know of a worker beside its load: speed, price, role, place. One row a worker.

Written by Observe: `join` and `up` when a worker says who it is, `speed` when its class has learnt.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.ids import WorkerId

GENERAL, PREFILLING, DECODING = range(3)
ROLES = {"prefilling": PREFILLING, "decoding": DECODING}
"""Instance types with a pool of their own; all others are general."""

ROUGH = (16.0, 0.2, 0.0, 0.0, 20.0, 0.1, 0.0)
"""Step coefficients of a worker nobody knows (see `cost_model/step.py`): only right in proportion,
so that equal strangers are told apart by their load."""

_ROW = {
    "known": (np.bool_, False),
    "price": (np.float64, 0.0),
    "role": (np.int8, GENERAL),
    "splits": (np.bool_, False),
    "fetches": (np.bool_, False),
    "response_ms": (np.float64, 0.0),
    "mix": (np.uint64, 0),
}


class Traits:
    """Columns beside those of `Fleet`."""

    def __init__(self) -> None:
        self.ms = np.tile(np.array(ROUGH)[:, None], (1, 8))
        """Step coefficients, one column a worker."""
        self.known = np.zeros(8, dtype=np.bool_)
        """Whether they are more than a guess."""
        self.price = np.zeros(8)
        """Per second."""
        self.role = np.zeros(8, dtype=np.int8)
        self.splits = np.zeros(8, dtype=np.bool_)
        """Takes prefill and decode nodes, not only whole requests."""
        self.fetches = np.zeros(8, dtype=np.bool_)
        """Can have KV brought from another worker."""
        self.response_ms = np.zeros(8)
        """Moving average from a place to the end; 0 before the first."""
        self.mix = np.zeros(8, dtype=np.uint64)
        """A hash of the worker's id, the same in every process."""
        self.place: list[tuple[str, ...]] = []
        """From the outside in, as in rack/host/socket; empty where nobody said."""
        self.pools = False
        """Whether any worker has a role."""
        self.watched = False
        """Whether anybody reads `response_ms`; keeping it costs something with every answer."""

    def join(self, row: int, worker: WorkerId, role: str, price: float, place: str) -> None:
        """A worker, as its configuration describes it."""
        self._grow(row + 1)
        if row == len(self.place):
            self.place.append(())
        self.place[row] = tuple(part for part in place.split("/") if part)
        self.role[row] = ROLES.get(role, GENERAL)
        self.price[row] = price
        self.ms[:, row] = ROUGH
        self.known[row] = self.splits[row] = self.fetches[row] = False
        self.response_ms[row] = 0.0
        digest = blake2b(worker.encode(), digest_size=8).digest()
        self.mix[row] = int.from_bytes(digest, "little")
        self.pools = bool(self.role.any())

    def stands(self, row: int, place: str) -> None:
        """Where it found itself to be, where its configuration does not say."""
        if place and not self.place[row]:
            self.place[row] = tuple(part for part in place.split("/") if part)

    def speed(self, row: int, coefficients: npt.NDArray[np.float64]) -> None:
        """How long its steps take."""
        self.ms[:, row] = coefficients
        self.known[row] = True

    def responded(self, row: int, ms: float) -> None:
        """One more request took so long. Requests differ far more than workers do, so one tells little,
        and the first of a worker no more than any other: it starts from what the others have."""
        before = float(self.response_ms[row])
        if not before:
            known = self.response_ms[self.response_ms > 0.0]
            before = float(known.mean()) if known.size else ms
        self.response_ms[row] = before + 0.02 * (ms - before)

    @staticmethod
    def rough() -> tuple[float, ...]:
        """Where there is not even a stranger to ask about."""
        return ROUGH

    def _grow(self, size: int) -> None:
        have = len(self.known)
        if size <= have:
            return
        for name, (kind, value) in _ROW.items():
            more: npt.NDArray[Any] = np.full(have, value, dtype=kind)
            setattr(self, name, np.concatenate([getattr(self, name), more]))
        self.ms = np.concatenate([self.ms, np.tile(np.array(ROUGH)[:, None], (1, have))], axis=1)
