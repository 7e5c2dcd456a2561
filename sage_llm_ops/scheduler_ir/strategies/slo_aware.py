"""Least laxity first, those that cannot make it apart."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Blocked, Strategy
from sage_llm_ops.scheduler_ir.strategies.lane import Lane
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.protocols import Outlook


class SLOAwareOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`patience_s`: a request without an objective is ordered as if it had this one, and is never
    set apart. `late_every`: one placement in so many goes to those that were set apart."""

    patience_s: float = 30.0
    late_every: int = 16

    def __post_init__(self) -> None:
        if not self.patience_s > 0.0:
            raise ValueError(f"patience_s={self.patience_s!r} must be above 0")
        if self.late_every < 2:
            raise ValueError(f"late_every={self.late_every} must be at least 2")


class SLOAware(Strategy):
    """Most objectives met: by latest start, which is arrival + objective - remaining service.

    Least laxity (latest start - now) orders alike at every moment, so the key never goes stale.
    Deadline orders collapse in overload: everybody is served just too late. So a job whose latest
    start has passed is set apart *before* the rest is ordered, and served in arrival order with what
    is left over, but with one placement in `late_every` for certain: that bounds its starvation. A
    request without an objective waits at most `patience_s` behind later ones.
    """

    name: ClassVar[str] = "slo_aware"
    Options = SLOAwareOptions

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        super().__init__(options, outlook)
        self._feasible = Lane(self._pending)
        self._late = Lane(self._pending)
        self._since_late = 0
        self._picked_late = False
        """Whether the offered one was set apart. Not asked again when it is placed: the estimate has
        moved since, and the bound would move with it."""

    def latest_start(self, job: Job) -> tuple[float, bool]:
        """And whether it is a real one: of a request with an objective."""
        request = job.request
        service = self._service_s(job)
        if request.slo_ms is None:
            return request.arrived + self.options.patience_s - service, False
        return request.arrived + request.slo_ms / 1e3 - service, True

    def completed(self, job: Job, now: float) -> None:
        self._learn(job, now)

    def _service_s(self, job: Job) -> float:
        return self.outlook.service_s(job.request, job.delivered)

    def _enter(self, job: Job, number: int, now: float) -> None:
        start, real = self.latest_start(job)
        # The second part keeps those without an objective from being set apart as they surface.
        key = (start, float(real))
        self._feasible.push(job.needs, (key, number, job.request.id))

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        self._set_apart(now)
        best, self._picked_late = self._feasible.best(blocked), False
        if best is None or self._since_late >= self.options.late_every - 1:
            late = self._late.best(blocked)
            if late is not None:
                best, self._picked_late = late, True
        return None if best is None else best[2]

    def _set_apart(self, now: float) -> None:
        """Keys begin with the latest start: who cannot make it any more is always at a head, or
        behind one without an objective that is served soon."""
        lane = self._feasible
        for needs in list(lane.queues):
            head = lane.head(needs)
            while head is not None and head[0][0] < now and head[0][1]:
                _, number, identity = lane.pop(needs)
                job = self._pending[identity][0]
                self._late.push(needs, ((job.seq,), number, identity))
                head = lane.head(needs)

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        if placed:
            self._since_late = 0 if self._picked_late else self._since_late + 1
            return
        self._feasible.compact(job.needs, len(self._pending))
        self._late.compact(job.needs, len(self._pending))

    def _order(self) -> list[RequestId]:
        return [entry[2] for lane in (self._feasible, self._late) for entry in lane.live()]
