"""Heaps by needs: what most orders keep their jobs in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import final

from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import Needs, RequestId

Key = tuple[float, ...]
Entry = tuple[Key, int, RequestId]
"""Key, number of the push, request. Among equal keys the earlier push goes first."""

_COMPACT_ABOVE = 256


@final
class Lane:
    """What was placed or removed is dropped when it surfaces: it stands no more among the pending
    jobs, or does so under the number of a later push."""

    __slots__ = ("_pending", "queues")

    def __init__(self, pending: Mapping[RequestId, tuple[Job, int]]) -> None:
        self._pending = pending
        self.queues: dict[Needs, list[Entry]] = {}

    def push(self, needs: Needs, entry: Entry) -> None:
        """O(log n)."""
        queue = self.queues.get(needs)
        if queue is None:
            self.queues[needs] = [entry]
        else:
            heappush(queue, entry)

    def best(self, blocked: Callable[[Needs], bool]) -> Entry | None:
        """The smallest live entry whose needs are not blocked."""
        found: Entry | None = None
        for needs in list(self.queues):
            head = self.head(needs)
            if head is not None and (found is None or head < found) and not blocked(needs):
                found = head
        return found

    def head(self, needs: Needs) -> Entry | None:
        """The smallest live entry with these needs."""
        queue, pending = self.queues[needs], self._pending
        while queue:
            head = queue[0]
            found = pending.get(head[2])
            if found is not None and found[1] == head[1]:
                return head
            heappop(queue)
        del self.queues[needs]
        return None

    def pop(self, needs: Needs) -> Entry:
        """Take the head out."""
        return heappop(self.queues[needs])

    def compact(self, needs: Needs, pending: int) -> None:
        """Removed jobs below a head that finds no room would never surface."""
        queue = self.queues.get(needs)
        if queue is not None and len(queue) > _COMPACT_ABOVE and len(queue) > 2 * pending:
            queue[:] = [entry for entry in queue if self._is_live(entry)]
            heapify(queue)

    def live(self) -> list[Entry]:
        """All live entries in order; from any thread."""
        queues = [list(queue) for queue in list(self.queues.values())]
        return sorted(entry for queue in queues for entry in queue if self._is_live(entry))

    def _is_live(self, entry: Entry) -> bool:
        found = self._pending.get(entry[2])
        return found is not None and found[1] == entry[1]
