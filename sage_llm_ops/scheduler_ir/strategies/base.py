"""The contract of a strategy, and the queue that those with a fixed key share.

Called by Schedule alone, from one thread. A job is pushed once per attempt; `offer` hands out the
best one that is not blocked and forgets nothing: the job stays a member until `placed` or `remove`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import ClassVar

from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import Needs, RequestId

Key = tuple[float, ...]
Entry = tuple[Key, int, RequestId]
"""Key, number of the push (an entry of an earlier attempt is told apart by it), request."""


_COMPACT_ABOVE = 256


class Strategy(ABC):
    """Pending jobs in the order in which they should be served."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def __init__(self) -> None:
        self._pending: dict[RequestId, tuple[Job, int]] = {}
        self._queues: dict[Needs, list[Entry]] = {}
        self._pushes = 0
        self._offered: RequestId | None = None

    @abstractmethod
    def key(self, job: Job, now: float) -> Key:
        """Smaller is sooner. Among equal keys the earlier push goes first."""

    def push(self, job: Job, now: float) -> None:
        """Take a job, new or on a further attempt."""
        identity = job.request.id
        if identity in self._pending:
            raise IntegrityError(f"request {identity!r} was pushed twice")
        self._pushes += 1
        self._pending[identity] = (job, self._pushes)
        entry = (self.key(job, now), self._pushes, identity)
        heappush(self._queues.setdefault(job.needs, []), entry)

    def offer(self, now: float, blocked: Callable[[Needs], bool]) -> Job | None:
        """The best job whose needs are not blocked; one offer at a time."""
        if self._offered is not None:
            raise IntegrityError(f"{self._offered!r} is still offered")
        best: Entry | None = None
        for needs in list(self._queues):
            head = self._head(needs)
            if head is not None and (best is None or head < best) and not blocked(needs):
                best = head
        if best is None:
            return None
        self._offered = best[2]
        return self._pending[best[2]][0]

    def placed(self, identity: RequestId) -> None:
        """The offered job has a place."""
        self._close_offer(identity)
        del self._pending[identity]

    def no_room(self, identity: RequestId) -> None:
        """The offered job found none; it keeps its position."""
        self._close_offer(identity)

    def remove(self, identity: RequestId) -> Job | None:
        """Take a pending job out; None where it is not pending."""
        if self._offered == identity:
            self._offered = None
        found = self._pending.pop(identity, None)
        if found is None:
            return None
        self._compact(found[0].needs)
        return found[0]

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, identity: object) -> bool:
        return identity in self._pending

    def __iter__(self) -> Iterator[Job]:
        """Pending jobs in their order; a snapshot, which any thread may take."""
        found = [self._pending.get(entry[2]) for entry in self._live()]
        return iter([pending[0] for pending in found if pending is not None])

    def check_integrity(self) -> None:
        """Every pending job stands in exactly one queue."""
        if sorted(entry[2] for entry in self._live()) != sorted(self._pending):
            raise IntegrityError(f"strategy {self.name}: queue and pending jobs differ")

    def _is_live(self, entry: Entry) -> bool:
        found = self._pending.get(entry[2])
        return found is not None and found[1] == entry[1]

    def _live(self) -> list[Entry]:
        queues = [list(queue) for queue in list(self._queues.values())]
        return sorted(entry for queue in queues for entry in queue if self._is_live(entry))

    def _head(self, needs: Needs) -> Entry | None:
        """Best live entry; what was placed or removed is dropped here, when it surfaces."""
        queue = self._queues[needs]
        while queue and not self._is_live(queue[0]):
            heappop(queue)
        if not queue:
            del self._queues[needs]
            return None
        return queue[0]

    def _compact(self, needs: Needs) -> None:
        """Removed jobs below a head that finds no room would never surface."""
        queue = self._queues.get(needs, [])
        if len(queue) > _COMPACT_ABOVE and len(queue) > 2 * len(self._pending):
            queue[:] = [entry for entry in queue if self._is_live(entry)]
            heapify(queue)

    def _close_offer(self, identity: RequestId) -> None:
        if self._offered != identity:
            raise IntegrityError(f"answer for {identity!r}, but {self._offered!r} is offered")
        self._offered = None
