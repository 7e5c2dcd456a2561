"""The order that fits the moment."""

from __future__ import annotations

from math import inf, sqrt
from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Blocked, Strategy
from sage_llm_ops.scheduler_ir.strategies.lane import Entry, Key, Lane
from sage_llm_ops.scheduler_ir.strategies.wspt import WEIGHTS, check_stretch, nearest, weight_of
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.protocols import Outlook

MODES = ("fifo", "slo_aware", "wspt")
_MOVED_AT_ONCE = 32
"""Entries that one operation brings from the order before to the present one."""


class AdaptiveOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Each pair is where a mode begins and where it ends; `dwell_s` the shortest stay in one."""

    busy: tuple[int, int] = (16, 4)
    """Pending jobs: below, the order hardly matters and stays that of arrival."""
    pressure: tuple[float, float] = (0.05, 0.01)
    """Share of the latest ends with an objective that missed it."""
    overload: tuple[float, float] = (0.4, 0.2)
    """The same, from where deadlines are no help: then the short ones first, so that most make it."""
    dispersion: tuple[float, float] = (1.0, 0.7)
    """Standard deviation of the pending jobs' service times over their mean."""
    dwell_s: float = 1.0
    patience_s: float = 30.0
    stretch: float = 20.0
    late_every: int = 16

    def __post_init__(self) -> None:
        for name in ("busy", "pressure", "overload", "dispersion"):
            begin, end = getattr(self, name)
            if not begin >= end >= 0:
                raise ValueError(f"{name}={(begin, end)!r}: a mode must end at or below its begin")
        if self.late_every < 2 or not self.patience_s > 0.0:
            raise ValueError(
                f"late_every={self.late_every} must be at least 2, patience_s={self.patience_s!r} "
                "above 0"
            )
        check_stretch(self.stretch)
        if not 0.0 <= self.dwell_s < inf:
            raise ValueError(f"dwell_s={self.dwell_s!r} must be 0 or more, and finite")


class Adaptive(Strategy):
    """Most objectives met and least waiting, whichever is at stake: by priority always; within one
    priority as the moment asks.

    `fifo` while little waits; `slo_aware` (latest start, the infeasible apart) while objectives are
    missed; `wspt` while much waits whose lengths differ widely, or so many objectives are missed that
    serving the short first saves most. Load, misses and dispersion are
    measured at each push and placement; a mode ends lower than it begins and lasts `dwell_s` at
    least, so it does not flap. A switch moves a few entries per operation: none takes long however
    much waits. Until all are moved those under the new order go first within their priority, which is
    at most as many operations as a thirty-second of the queue. Each switch says why (`changes`).

    Starvation: bounded within a priority as in the mode in force; not bounded across priorities.
    """

    name: ClassVar[str] = "adaptive"
    Options = AdaptiveOptions

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        super().__init__(options, outlook)
        self.mode = "fifo"
        self._before = Lane(self._pending)
        self._late = Lane(self._pending)
        self._since_late = [0] * len(WEIGHTS)
        """Placements since the last one of a job that was set apart, by priority."""
        self._picked_late = False
        self._switched = float("-inf")
        self._service: dict[RequestId, float] = {}
        self._sum = self._squares = 0.0
        self._with_slo = 0
        self._missed = 0.0

    def completed(self, job: Job, now: float) -> None:
        self._learn(job, now)
        if job.request.slo_ms is not None and not _is_late(job, now):
            self._missed -= 0.03 * self._missed

    def finished(self, job: Job, now: float) -> None:
        """Who waited in vain until its time was over missed its objective, too."""
        if _is_late(job, now):
            self._missed += 0.03 * (1.0 - self._missed)

    # -- jobs -----------------------------------------------------------------------------------

    def _enter(self, job: Job, number: int, now: float) -> None:
        service = self.outlook.service_s(job.request, job.delivered)
        self._service[job.request.id] = service
        self._sum += service
        self._squares += service * service
        self._with_slo += job.request.slo_ms is not None
        self._lane.push(job.needs, (self._key(job), number, job.request.id))
        self._settle(now)

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        service = self._service.pop(job.request.id)
        self._sum -= service
        self._squares -= service * service
        self._with_slo -= job.request.slo_ms is not None
        if placed:
            kind = nearest(job.request.priority)
            self._since_late[kind] = 0 if self._picked_late else self._since_late[kind] + 1
        if not self._pending:
            self._sum = self._squares = 0.0  # what rounding has left
        if not placed:
            for lane in (self._lane, self._before, self._late):
                lane.compact(job.needs, len(self._pending))
        self._settle(now)

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        if self.mode == "slo_aware":
            self._set_apart(now)
        best, self._picked_late = self._lane.best(blocked), False
        if self._late.queues:
            late = self._late.best(blocked)
            if late is not None and (best is None or self._is_due(late, best)):
                best, self._picked_late = late, True
        if self._before.queues:
            before = self._before.best(blocked)
            if before is not None and (best is None or before[0][0] < best[0][0]):
                best, self._picked_late = before, False
        return None if best is None else best[2]

    def _is_due(self, late: Entry, best: Entry) -> bool:
        """Whether one that was set apart goes before the best of the others."""
        priority, other = late[0][0], best[0][0]
        if priority != other:
            return priority < other
        every: int = self.options.late_every
        return self._since_late[nearest(int(priority))] >= every - 1

    def _order(self) -> list[RequestId]:
        found = [entry for lane in (self._lane, self._late, self._before) for entry in lane.live()]
        return [entry[2] for entry in sorted(found, key=lambda entry: entry[0][0])]

    # -- keys -----------------------------------------------------------------------------------

    def _key(self, job: Job) -> Key:
        request = job.request
        service = self._service[request.id]
        if self.mode == "fifo":
            return (request.priority, job.seq, 0.0)
        if self.mode == "slo_aware":
            return (
                request.priority,
                self._latest_start(job, service),
                float(request.slo_ms is not None),
            )
        stretched = self.options.stretch * service / weight_of(request.priority)
        return (request.priority, request.arrived + stretched, job.seq)

    def _latest_start(self, job: Job, service: float) -> float:
        request = job.request
        slo = self.options.patience_s if request.slo_ms is None else request.slo_ms / 1e3
        return request.arrived + slo - service

    def _set_apart(self, now: float) -> None:
        """As in `slo_aware`; of each priority the least is seen when it comes to the head."""
        lane = self._lane
        for needs in list(lane.queues):
            head = lane.head(needs)
            while head is not None and head[0][1] < now and head[0][2]:
                _, number, identity = lane.pop(needs)
                job = self._pending[identity][0]
                self._late.push(needs, ((job.request.priority, job.seq), number, identity))
                head = lane.head(needs)

    # -- modes ----------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Carry on with a switch, or see whether one is due."""
        if self._before.queues:
            self._move(_MOVED_AT_ONCE)
        elif now - self._switched >= self.options.dwell_s:
            mode, why = self._wanted()
            if mode != self.mode:
                self.said.append(f"{self.mode} -> {mode}: {why}")
                self.mode, self._switched = mode, now
                self._before, self._lane = self._lane, self._before
                for needs in list(self._late.queues):
                    for entry in self._late.queues.pop(needs):
                        self._before.push(needs, entry)
                self._move(_MOVED_AT_ONCE)

    def _wanted(self) -> tuple[str, str]:
        options, pending = self.options, len(self._pending)
        if pending < options.busy[self.mode != "fifo"]:
            return "fifo", f"{pending} jobs wait"
        if self._with_slo and self._missed >= options.overload[self.mode == "wspt"]:
            return "wspt", f"{self._missed:.0%} miss their objective, {pending} wait"
        if self._with_slo and self._missed >= options.pressure[self.mode == "slo_aware"]:
            return "slo_aware", f"{self._missed:.0%} miss their objective, {pending} wait"
        spread = self._dispersion()
        if spread >= options.dispersion[self.mode == "wspt"]:
            return "wspt", f"{pending} jobs wait, their lengths spread by {spread:.2f} of the mean"
        return "fifo", f"{self._missed:.0%} miss their objective, lengths spread by {spread:.2f}"

    def _dispersion(self) -> float:
        n = max(1, len(self._pending))
        mean = self._sum / n
        return sqrt(max(0.0, self._squares / n - mean * mean)) / mean if mean > 0.0 else 0.0

    def _move(self, count: int) -> None:
        """Bring entries over; the last leaf of a heap may be taken without mending it."""
        queues = self._before.queues
        while count and queues:
            needs = next(iter(queues))
            queue = queues[needs]
            while queue and count:
                count -= 1
                _, number, identity = queue.pop()
                if self._is_live(identity, number):
                    job = self._pending[identity][0]
                    self._lane.push(needs, (self._key(job), number, identity))
            if not queue:
                del queues[needs]


def _is_late(job: Job, now: float) -> bool:
    """Whether it has an objective and missed it."""
    request = job.request
    return request.slo_ms is not None and (now - request.arrived) * 1e3 > request.slo_ms
