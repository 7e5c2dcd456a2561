"""Every offer that Schedule makes, checked against the order that its strategy promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sage_llm_ops.operators import NobodyKnows, Plane
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import RequestId, WorkerId
from sage_llm_ops.types.requests import Request

RANKS: dict[str, Callable[[Job], Any]] = {
    "fifo": lambda job: job.seq,
    "priority": lambda job: (job.request.priority, job.seq),
}
"""Our own account of the orders that a strategy promises."""


class Offers(NobodyKnows):
    """A prefix view that knows nothing, but sees every offer."""

    def __init__(self) -> None:
        self.plane: Plane | None = None
        self.seen: set[tuple[RequestId, int, int]] = set()
        self.twice: list[tuple[RequestId, int, int]] = []
        self.order: list[RequestId] = []
        self.schedule: Schedule | None = None
        self.unfair: list[str] = []

    def match(self, request: Request, now: float) -> Mapping[WorkerId, int] | None:
        """Note the offer: request, attempt, capacity epoch."""
        assert self.plane is not None
        job = self.plane.jobs[request.id]
        offer = (request.id, job.attempt, self.plane.fleet.epoch(job.needs))
        if offer in self.seen:
            self.twice.append(offer)
        self.seen.add(offer)
        self.order.append(request.id)
        assert self.schedule is not None
        rank = RANKS.get(self.schedule.options.strategy)
        if rank is not None:
            rivals = [other for other in self.schedule.strategy if other.needs == job.needs]
            first = min(rivals, key=rank)
            if first is not job:
                self.unfair.append(f"{request.id!r} was offered before {first.request.id!r}")
        return None
