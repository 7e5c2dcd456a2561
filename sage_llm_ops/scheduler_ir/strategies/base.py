"""The contract of a strategy: pending jobs, and who is next.

Called by Schedule alone, from one thread. A job is pushed once per attempt; `offer` hands out the
best one that is not blocked and forgets nothing: the job stays a member until `placed` or `remove`.
`finished` tells of every end of a job that was let in, `completed` before it of those that ran to
theirs. Time is an argument; an estimate of how long a job takes comes from an `Outlook`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.lane import Key, Lane
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import Needs, RequestId
from sage_llm_ops.types.protocols import Outlook, RoughOutlook

Blocked = Callable[[Needs], bool]


class NoStrategyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For orders that have none."""


class Strategy:
    """Pending jobs in the order in which they should be served."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    Options: ClassVar[type[msgspec.Struct]] = NoStrategyOptions
    thrifty: ClassVar[bool] = False
    """Whether Route should look for the cheapest place that is in time."""

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        self.options: Any = self.Options() if options is None else options
        self.outlook: Outlook = outlook or RoughOutlook()
        self._pending: dict[RequestId, tuple[Job, int]] = {}
        """Job, and the number of its push: an entry of an earlier attempt is told apart by it."""
        self._pushes = 0
        self._offered: RequestId | None = None
        self.said: list[str] = []
        """What `changes` would tell."""
        self._lane = Lane(self._pending)

    def push(self, job: Job, now: float) -> None:
        """Take a job, new or on a further attempt."""
        identity = job.request.id
        if identity in self._pending:
            raise IntegrityError(f"request {identity!r} was pushed twice")
        self._pushes += 1
        self._pending[identity] = (job, self._pushes)
        self._enter(job, self._pushes, now)

    def offer(self, now: float, blocked: Blocked) -> Job | None:
        """The best job whose needs are not blocked; one offer at a time."""
        if self._offered is not None:
            raise IntegrityError(f"{self._offered!r} is still offered")
        found = self._pick(now, blocked)
        if found is None:
            return None
        self._offered = found
        return self._pending[found][0]

    def placed(self, identity: RequestId, now: float = 0.0) -> None:
        """The offered job has a place."""
        if self._offered != identity:
            raise self._not_offered(identity)
        self._offered = None
        self._gone(self._pending.pop(identity)[0], now, placed=True)

    def no_room(self, identity: RequestId) -> None:
        """The offered job found none; it keeps its position."""
        if self._offered != identity:
            raise self._not_offered(identity)
        self._offered = None

    def remove(self, identity: RequestId, now: float = 0.0) -> Job | None:
        """Take a pending job out; None where it is not pending."""
        if self._offered == identity:
            self._offered = None
        found = self._pending.pop(identity, None)
        if found is None:
            return None
        self._gone(found[0], now, placed=False)
        return found[0]

    def completed(self, job: Job, now: float) -> None:
        """The job ran to its end. Most orders do not care, here and below."""

    def finished(self, job: Job, now: float) -> None:
        """The job has ended, whether it ever ran or not."""

    def changes(self) -> list[str]:
        """What it changed about itself since it was last asked, as sentences for the ledger."""
        said, self.said = self.said, []
        return said

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, identity: object) -> bool:
        return identity in self._pending

    def __iter__(self) -> Iterator[Job]:
        """Pending jobs in their order; a snapshot, which any thread may take."""
        found = [self._pending.get(identity) for identity in self._order()]
        return iter([pending[0] for pending in found if pending is not None])

    def check_integrity(self) -> None:
        """Every pending job stands in exactly one queue."""
        if sorted(self._order()) != sorted(self._pending):
            raise IntegrityError(f"strategy {self.name}: queue and pending jobs differ")

    # -- what an order says ---------------------------------------------------------------------

    def key(self, job: Job, now: float) -> Key:
        """Smaller is sooner; among equal keys the earlier push. All that most orders have to say.

        Made once, at the push: time enters it as a moment (a latest start), never as a distance
        from now, so that it does not go stale while it waits. An order that one key cannot say
        overrides the four below instead.
        """
        raise NotImplementedError(
            f"strategy {self.name!r} has no order: give it key(), or _enter, _pick, _order and _gone"
        )

    def _enter(self, job: Job, number: int, now: float) -> None:
        """A job was pushed."""
        self._lane.push(job.needs, (self.key(job, now), number, job.request.id))

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        """The best one; it stays where it is."""
        best = self._lane.best(blocked)
        return None if best is None else best[2]

    def _order(self) -> list[RequestId]:
        """All pending ones, best first."""
        return [entry[2] for entry in self._lane.live()]

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        """A job is not pending any more."""
        if not placed:
            self._lane.compact(job.needs, len(self._pending))

    def _learn(self, job: Job, now: float) -> None:
        """For the outlook: how long a completed job took. What is left of a later attempt, or of one
        that failed or was given up, says nothing of that."""
        if job.placed is not None and job.attempt == 1:
            self.outlook.took(job.request, now - job.placed)

    def _is_live(self, identity: RequestId, number: int) -> bool:
        found = self._pending.get(identity)
        return found is not None and found[1] == number

    def _not_offered(self, identity: RequestId) -> IntegrityError:
        return IntegrityError(f"answer for {identity!r}, but {self._offered!r} is offered")
