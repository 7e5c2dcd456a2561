"""Route: where it goes. The room is taken at once, so that the next choice sees it."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.scheduler_ir import ROUTINGS, Choice
from sage_llm_ops.types.events import Broken, NoRoom, Offer, Placed
from sage_llm_ops.types.plans import PlanNode


class RouteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strategy`: one of the registered routings."""

    strategy: str = "load_balanced"


class Route(Operator):
    """Chooses among the workers with room, reserves, and writes down why."""

    name = "route"
    takes = {Offer: "offer"}
    emits = (Placed, NoRoom)
    passes = (Broken,)
    Options = RouteOptions

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        self.routing = ROUTINGS.resolve(options.strategy, key="strategy")()
        self._policy = f"{self.routing.name}@{self.routing.version}"

    def offer(self, event: Offer) -> Emitted:
        job, fleet = event.job, self.plane.fleet
        rows = fleet.with_room(job.needs, job.excluded)
        if not rows.size:
            return NoRoom(event.seq, event.now, job, fleet.epoch(job.needs))
        choice = self.routing.choose(event, fleet, rows)
        node = self._reserve(event, choice)
        request = job.request
        self.plane.ledger.place(
            event.seq,
            event.now,
            request.id,
            job.attempt,
            choice.row,
            rows,
            choice.costs,
            policy=self._policy,
            reason=choice.reason,
            unit=self.routing.unit,
            hits=event.hits,
            waited_s=event.now - request.arrived,
            trace=request.trace,
        )
        return Placed(event.seq, event.now, job, node)

    def _reserve(self, event: Offer, choice: Choice) -> PlanNode:
        job, plane = event.job, self.plane
        request = job.request
        worker = plane.fleet.ids[choice.row]
        length = request.n_prompt + job.delivered
        node = PlanNode(
            plane.next_node(),
            request.id,
            worker,
            job.attempt + 1,
            event.kinds[0],
            n_tokens=length,
            offset=job.delivered,
            task=request.task,
            model=request.model,
        )
        plane.fleet.reserve(node.id, choice.row, length + request.max_tokens - job.delivered)
        job.attempt += 1
        job.node, job.worker, job.placed, job.accepted = node.id, worker, event.now, None
        return node
