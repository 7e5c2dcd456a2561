"""Route: where it goes. The room is taken at once, so that the next choice sees it."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.cost_model import prefill_ms
from sage_llm_ops.operators.base import Emitted, Operator, read_options
from sage_llm_ops.scheduler_ir import ROUTINGS
from sage_llm_ops.scheduler_ir.narrowing import affordable, cheapest_in_time, for_kind
from sage_llm_ops.scheduler_ir.pd_separation import OFF
from sage_llm_ops.scheduler_ir.routing.base import Rows
from sage_llm_ops.types.events import Broken, NoRoom, Offer, Placed
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.plans import PlanNode


class RouteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strategy`: one of the registered routings; `options`: its own."""

    strategy: str = "load_balanced"
    options: dict[str, Any] = {}


class Route(Operator):
    """Chooses among the workers with room, reserves, and writes down why."""

    name = "route"
    takes = {Offer: "offer"}
    emits = (Placed, NoRoom)
    passes = (Broken,)
    Options = RouteOptions

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        kind = ROUTINGS.resolve(options.strategy, key="strategy")
        owner = f"routing strategy {options.strategy!r}"
        self.routing = kind(read_options(kind.Options, options.options, owner=owner))
        self._policy = f"{kind.name}@{kind.version}"
        self._predicts = kind.predicts
        if kind.watches:
            plane.fleet.traits.watched = True

    def offer(self, event: Offer) -> Emitted:
        job, fleet = event.job, self.plane.fleet
        rows = fleet.with_room(job.needs, job.excluded)
        if not rows.size:
            return NoRoom(event.seq, event.now, job, fleet.epoch(job.needs))
        if job.request.cost_budget is not None:
            within = affordable(fleet, rows, job)
            if not within.size:
                return self._too_dear(event)
            rows = within
        kinds = event.kinds
        if len(kinds) > 1:
            prefill, decode = (for_kind(fleet, rows, kind) for kind in kinds)
            if prefill.size and decode.size:
                return self._apart(event, prefill, decode)
            event.split_reason = "no pair of workers within its cost_budget has room"
        job.attempt += 1
        if event.pooled or event.thrifty:
            rows = self._narrow(event, rows)
        node = self._place(event, rows, "fused", event.split_reason)
        return self._placed(event, node)

    def _apart(self, event: Offer, prefill: Rows, decode: Rows) -> Placed:
        """Both nodes at once: the KV has to know where to go."""
        job = event.job
        job.attempt += 1
        first = self._place(event, prefill, "prefill", event.split_reason)
        self._place(event, decode, "decode", event.split_reason)
        job.transfer_s = event.transfer_s
        return self._placed(event, first)

    def _placed(self, event: Offer, node: PlanNode) -> Placed:
        job = event.job
        job.worker, job.placed, job.accepted = WorkerId(node.worker), event.now, None
        return Placed(event.seq, event.now, job, node)

    def _narrow(self, event: Offer, rows: Rows) -> Rows:
        fleet = self.plane.fleet
        if event.pooled:
            rows = for_kind(fleet, rows, "fused")
        if event.thrifty:
            rows = cheapest_in_time(fleet, rows, event.job, event.now)
        return rows

    def _place(self, event: Offer, rows: Rows, kind: str, why: str) -> PlanNode:
        """Choose, reserve, write down."""
        job, plane = event.job, self.plane
        request, fleet = job.request, plane.fleet
        row, costs, reason = self.routing.choose(event, fleet, rows)
        worker = fleet.ids[row]
        delivered = job.delivered
        if kind != "fused":
            reason = f"{kind}: {reason}; {why}"
            delivered += kind == "decode"
        elif why and why != OFF.reason:
            reason = f"{reason}; {why}"
        length = request.n_prompt + delivered
        node = PlanNode(
            plane.next_node(),
            request.id,
            worker,
            job.attempt,
            kind,
            n_tokens=length,
            offset=delivered,
            task=request.task,
            model=request.model,
        )
        tokens = length + (1 if kind == "prefill" else request.max_tokens - delivered)
        if kind == "decode":
            fleet.reserve(node.id, row, tokens)
            job.then = node
        else:
            foreseen = self._predicts or event.pooled
            work_us = self._work_us(event, row, length) if foreseen else 0
            fleet.reserve(node.id, row, tokens, work_us)
            job.node = node.id  # now: what raises below must find what to give back
            plane.prefix.placed(node.id, request, worker, event.now)
        plane.ledger.place(
            event.seq,
            event.now,
            request.id,
            job.attempt,
            row,
            rows,
            costs,
            policy=self._policy,
            reason=reason,
            unit=self.routing.unit,
            hits=event.hits,
            waited_s=event.now - request.arrived,
            trace=request.trace,
        )
        return node

    def _work_us(self, event: Offer, row: int, length: int) -> int:
        """Prefill that the worker has before it now."""
        fleet = self.plane.fleet
        there = min((event.hits or {}).get(fleet.ids[row], 0), length - 1)
        return int(prefill_ms(fleet.traits.ms[:, row], length - there, there) * 1e3)

    def _too_dear(self, event: Offer) -> NoRoom:
        job = event.job
        why = (
            f"cost_budget={job.request.cost_budget:g} is below what it would cost wherever there is "
            "room; raise it, leave it out or add cheaper instances"
        )
        return NoRoom(event.seq, event.now, job, 0, why)
