"""Schedule: who is next. One offer is out at a time, so that each decision sees the last one."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.operators.advance import STOPPED
from sage_llm_ops.operators.base import Emitted, Operator, read_options
from sage_llm_ops.scheduler_ir import STRATEGIES
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import (
    Admitted,
    Broken,
    Cancel,
    ConfigSet,
    Drain,
    Event,
    Inner,
    Job,
    NodeDone,
    NodeFailed,
    NodeReady,
    NoRoom,
    Offer,
    Outcome,
    Retry,
    Timer,
    WorkerDown,
    WorkerJoin,
    WorkerLeave,
    WorkerUp,
)
from sage_llm_ops.types.ids import Needs, RequestId


class ScheduleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strategy`: one of the registered orders; `options`: its own."""

    strategy: str = "fifo"
    options: dict[str, Any] = {}


class Schedule(Operator):
    """Owns the queue. A job without room is parked with its needs until their epoch moves."""

    name = "schedule"
    shape = "flatmap"
    takes = {
        Admitted: "push",
        Retry: "again",
        NodeReady: "placed",
        NoRoom: "no_room",
        Outcome: "outcome",
        Broken: "broken",
        Cancel: "cancel",
        Timer: "timer",
        WorkerJoin: "members",
        WorkerUp: "members",
        NodeDone: "moved",
        NodeFailed: "moved",
        WorkerDown: "moved",
        WorkerLeave: "members",
        Drain: "moved",
        ConfigSet: "moved",
    }
    emits = (Offer, Outcome)
    passes = ()
    Options = ScheduleOptions

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        kind = STRATEGIES.resolve(options.strategy, key="strategy")
        owner = f"strategy {options.strategy!r}"
        self.strategy = kind(
            read_options(kind.Options, options.options, owner=owner), plane.outlook
        )
        self._policy = f"{kind.name}@{kind.version}"
        self.offered: RequestId | None = None
        self._parked: dict[Needs, int] = {}

    def push(self, event: Admitted | Retry) -> Emitted:
        self.strategy.push(event.job, event.now)
        return self._next(event, [])

    def again(self, event: Retry) -> Emitted:
        """As `push`; but the fleet may have changed since it was admitted."""
        if self.plane.fleet.may_serve(event.job.needs):
            return self.push(event)
        return self._next(event, [self._strand(event, event.job)])

    def placed(self, event: NodeReady) -> Emitted:
        if event.node.kind == "decode":
            return self._next(event, [])  # a plan that goes on, not the answer to an offer
        self._answered(event.job)
        self.strategy.placed(event.job.request.id, event.now)
        return self._next(event, [])

    def no_room(self, event: NoRoom) -> Emitted:
        job = event.job
        self._answered(job)
        if event.never:
            self.strategy.remove(job.request.id, event.now)
            return self._next(event, [self._end(event, job, "over_budget", event.never)])
        self.strategy.no_room(job.request.id)
        self._parked[job.needs] = event.epoch
        return self._next(event, [])

    def outcome(self, event: Outcome) -> Emitted:
        if not event.code:
            self.strategy.completed(event.job, event.now)
        self.strategy.finished(event.job, event.now)
        return self._next(event, [event])

    def broken(self, event: Broken) -> Emitted:
        """Free whatever it held; its caller is told which operator failed."""
        job = event.job
        if job.node is not None:
            self.plane.running.pop(job.node, None)
            self.plane.fleet.release(job.node)
            job.node = None
        self.plane.drop_next(job)
        if self.offered == job.request.id:
            self.offered = None
        self.strategy.remove(job.request.id, event.now)
        message = f"operator {event.operator!r} failed on it: {event.error!r}; this is a defect"
        return self._next(event, [self._end(event, job, "integrity", message)])

    def cancel(self, event: Cancel) -> Emitted:
        return self._drop(event, event.request, event.code, event.message)

    def timer(self, event: Timer) -> Emitted:
        if event.kind != "deadline":
            return self._next(event, [])
        return self._drop(event, RequestId(event.key), "deadline_expired", "")

    def moved(self, event: Event) -> Emitted:
        return self._next(event, [])

    def members(self, event: WorkerJoin | WorkerUp | WorkerLeave) -> Emitted:
        """Whoever waits for what nobody here can give any more is told so: the last instance left,
        its id belongs to another model now, or it came up and said that it does not do this."""
        fleet = self.plane.fleet
        stranded = [job for job in self.strategy if not fleet.may_serve(job.needs)]
        for job in stranded:
            self.strategy.remove(job.request.id, event.now)
        return self._next(event, [self._strand(event, job) for job in stranded])

    def failed(self, event: Any, error: Exception) -> Emitted:
        """A `Broken` that cannot be handled must not come back here for ever: it ends now."""
        passed = super().failed(event, error)
        if isinstance(event, Broken):
            return self._end(event, event.job, "integrity", f"operator {self.id!r}: {error!r}")
        return passed

    def _drop(self, event: Event, request: RequestId, code: str, message: str) -> Emitted:
        job = self.strategy.remove(request, event.now)
        if job is None:
            return self._next(event, [])
        return self._next(event, [self._end(event, job, code, message or STOPPED[code])])

    def _answered(self, job: Job) -> None:
        if self.offered != job.request.id:
            raise IntegrityError(f"answer for {job.request.id!r}, but {self.offered!r} is offered")
        self.offered = None

    def _next(self, event: Event | Inner, out: list[Any]) -> Emitted:
        strategy = self.strategy
        if self.offered is None and len(strategy):
            job = strategy.offer(event.now, self._blocked)
            if job is not None:
                self.offered = job.request.id
                offer = Offer(event.seq, event.now, job)
                if strategy.thrifty:
                    offer.thrifty = True
                out.append(offer)
        if strategy.said:
            for change in strategy.changes():
                self.plane.ledger.policy(event.seq, event.now, self._policy, change)
        return out

    def _blocked(self, needs: Needs) -> bool:
        fleet = self.plane.fleet
        return not fleet.has_room(needs) or self._parked.get(needs) == fleet.epoch(needs)

    def _strand(self, event: Event | Inner, job: Job) -> Outcome:
        request = job.request
        message = f"no instance is left that does {request.task!r} with model {request.model!r}"
        return self._end(event, job, "no_instance", message)

    def _end(self, event: Event | Inner, job: Job, code: str, message: str) -> Outcome:
        self.strategy.finished(job, event.now)
        return Outcome(event.seq, event.now, job, code=code, message=message)

    def check_integrity(self) -> None:
        """Between two dispatches no offer is out, and everyone inside waits or runs."""
        self.strategy.check_integrity()
        if self.offered is not None:
            raise IntegrityError(f"{self.offered!r} is offered between two dispatches")
        for identity, job in self.plane.jobs.items():
            if (identity in self.strategy) == (job.node is not None):
                raise IntegrityError(f"{identity!r} must either wait or run")
