"""Timers of a source: a heap, and a table of those that may still be cancelled."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from sage_llm_ops.types.events import Timer

_COMPACT_ABOVE = 256


class TimerHeap:
    """Used by one thread: the source's. Cancelled timers are dropped when they surface, and all at
    once when they are the majority, so that finished requests leave nothing behind."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, str, str]] = []
        self._live: dict[tuple[str, str], tuple[int, bool]] = {}
        self._count = 0
        self.pending_work = 0
        """Live timers that are not daemons."""

    def at(self, when: float, kind: str, key: str, *, daemon: bool = False) -> None:
        """Set or move the timer `(kind, key)`."""
        self.cancel(kind, key)
        self._count += 1
        self._live[kind, key] = (self._count, daemon)
        self.pending_work += not daemon
        heappush(self._heap, (when, self._count, kind, key))

    def cancel(self, kind: str, key: str) -> None:
        """It will not fire; nothing happens where there is none."""
        found = self._live.pop((kind, key), None)
        if found is None:
            return
        self.pending_work -= not found[1]
        if len(self._heap) > _COMPACT_ABOVE and len(self._heap) > 2 * len(self._live):
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            heapify(self._heap)

    def next_at(self) -> float | None:
        """When the earliest live timer is due; None where there is none."""
        heap = self._heap
        while heap and not self._is_live(heap[0]):
            heappop(heap)
        return heap[0][0] if heap else None

    def pop(self) -> Timer:
        """The earliest live timer; call `next_at` first."""
        _, _, kind, key = heappop(self._heap)
        _, daemon = self._live.pop((kind, key))
        self.pending_work -= not daemon
        return Timer(kind=kind, key=key)

    def pending(self) -> list[tuple[str, str]]:
        """Kind and key of the live timers, in the order they were set."""
        return list(self._live)

    def __len__(self) -> int:
        return len(self._heap)

    def _is_live(self, entry: tuple[float, int, str, str]) -> bool:
        found = self._live.get((entry[2], entry[3]))
        return found is not None and found[0] == entry[1]
