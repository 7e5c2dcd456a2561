"""One tenant's requests with the same needs: in order of arrival, the hopeless ones apart."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush
from typing import NamedTuple, final

from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import RequestId

_COMPACT_ABOVE = 256


class Waiting(NamedTuple):
    """A request in its tenant's line."""

    seq: int
    number: int
    """Of its push: one of an earlier attempt is told apart by it."""
    identity: RequestId
    latest_start: float
    """Started later, it misses its objective; infinite where it has none."""


@final
class Line:
    """Who was placed or removed is dropped when it surfaces."""

    __slots__ = ("_late", "_pending", "_timely", "size")

    def __init__(self, pending: Mapping[RequestId, tuple[Job, int]]) -> None:
        self._pending = pending
        self._timely: list[Waiting] = []
        self._late: list[Waiting] = []
        self.size = 0
        """Requests that stand here; who takes one out counts it down."""

    def push(self, entry: Waiting) -> None:
        """O(log n)."""
        self.size += 1
        heappush(self._timely, entry)

    def head(self, now: float, *, late_first: bool) -> tuple[Waiting, bool] | None:
        """Who is next, and whether it was set apart: of those that can still make it, or have no
        objective, the first; of the others where there is none of these, or it is their turn."""
        self._drop_dead(self._timely)
        while self._timely and self._timely[0].latest_start < now:
            heappush(self._late, heappop(self._timely))
            self._drop_dead(self._timely)
        self._drop_dead(self._late)
        if self._late and (late_first or not self._timely):
            return self._late[0], True
        return (self._timely[0], False) if self._timely else None

    def live(self) -> list[tuple[bool, Waiting]]:
        """All of them, in no order; whether each was set apart. From any thread."""
        lanes = ((False, list(self._timely)), (True, list(self._late)))
        return [(late, entry) for late, lane in lanes for entry in lane if self._is_live(entry)]

    def compact(self) -> None:
        """Requests removed behind a head that finds no room would never surface."""
        for lane in (self._timely, self._late):
            if len(lane) > _COMPACT_ABOVE and len(lane) > 2 * len(self._pending):
                lane[:] = sorted(entry for entry in lane if self._is_live(entry))

    def _drop_dead(self, lane: list[Waiting]) -> None:
        while lane and not self._is_live(lane[0]):
            heappop(lane)

    def _is_live(self, entry: Waiting) -> bool:
        found = self._pending.get(entry.identity)
        return found is not None and found[1] == entry.number
