"""One row a worker: whose it is, and the numbers that decisions compare.

Arrays and not objects, because a routing compares all candidates at once: the cost of a decision
should not grow with the fleet. So a row does not stay with an id for ever, either: instances come and
go for months under ids of their own. It is its worker's while that is here or holds anything, then it
stays as it was, for people to see and for the same id to return to, until a newcomer takes it: the
lowest that is free, so that a replay hands out the same rows.
"""

from __future__ import annotations

import numpy as np

from sage_llm_ops.fleet.breaker import CLOSED
from sage_llm_ops.fleet.traits import Traits
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import Needs, WorkerId

GONE, DOWN, DRAINING, REFUSING, UP = range(5)
"""States of a row; only UP takes new nodes. Plain numbers: an enum's members cost 0.3 us to name."""
STATES = ("gone", "down", "draining", "refusing", "up")

_EMPTY = {
    "state": GONE,
    "slots": 0,
    "breaker": CLOSED,
    "limit": 0,
    "running": 0,
    "tokens": 0,
    "assigned": 0,
    "work_us": 0,
    "kv_usage": np.nan,
}
"""Columns, and what stands there in a row that nobody has had."""


class Table:
    """Rows and who has them. `Fleet` says what happens to them."""

    def __init__(self) -> None:
        self.ids: list[WorkerId] = []
        """By row: whose it is, or was last."""
        self.rows: dict[WorkerId, int] = {}
        """The other way round; an id that left is here until another takes its row."""
        self.state = np.zeros(8, dtype=np.int8)
        self.slots = np.zeros(8, dtype=np.int64)
        self.breaker = np.zeros(8, dtype=np.int8)
        self.limit = np.zeros(8, dtype=np.int64)
        """Nodes it may hold now: its slots, or what its breaker leaves of them."""
        self.running = np.zeros(8, dtype=np.int64)
        self.tokens = np.zeros(8, dtype=np.int64)
        self.assigned = np.zeros(8, dtype=np.int64)
        self.work_us = np.zeros(8, dtype=np.int64)
        """Prefill that its nodes still have before them."""
        self.kv_usage = np.full(8, np.nan)
        self.traits = Traits()
        self._serves: list[tuple[Needs, ...]] = []
        self._lengths: list[int] = []
        self._models: list[tuple[str, ...]] = []
        """Names under which each serves, the model's own first."""

    def left(self, worker: WorkerId) -> bool:
        """Whether it is not here, or not any more: what is heard of it was said before it left."""
        row = self.rows.get(worker)
        return row is None or bool(self.state[row] == GONE)

    def _take(self, worker: WorkerId) -> int:
        """The lowest row that nobody needs, as if nobody had had it."""
        used = len(self.ids)
        free = np.flatnonzero((self.state[:used] == GONE) & (self.running[:used] == 0))
        if free.size:
            row = int(free[0])
            del self.rows[self.ids[row]]
            self.ids[row], self._lengths[row] = worker, 0
            for name, value in _EMPTY.items():
                getattr(self, name)[row] = value
        else:
            row = used
            self.ids.append(worker)
            self._serves.append(())
            self._lengths.append(0)
            self._models.append(())
            self._grow(row + 1)
        self.rows[worker] = row
        return row

    def _grow(self, size: int) -> None:
        more = len(self.state)
        if size <= more:
            return
        for name, value in _EMPTY.items():
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.full(more, value, dtype=old.dtype)]))

    def _check_rows(self) -> None:
        """Everybody has one row of their own."""
        if self.rows != {worker: row for row, worker in enumerate(self.ids)}:
            raise IntegrityError("fleet: rows and the ids in them differ")
