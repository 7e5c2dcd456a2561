"""Observe: the first to see every event, so that views are right before anyone decides."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from sage_llm_ops.cost_model import Step, WorkerClass
from sage_llm_ops.fleet.breaker import CLOSED, HALF_OPEN, OPEN, Breaker, BreakerRule
from sage_llm_ops.fleet.table import GONE
from sage_llm_ops.fleet.view import Reservation
from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import (
    ConfigSet,
    Drain,
    Event,
    FirstToken,
    KvBatch,
    Load,
    NodeAccepted,
    NodeDone,
    NodeFailed,
    Timer,
    WorkerDown,
    WorkerJoin,
    WorkerLeave,
    WorkerUp,
)
from sage_llm_ops.types.ids import NodeId, WorkerId

NOT_ITS_FAULT = frozenset({"invalid_request", "capability", "worker_lost"})
"""Failures that say nothing about how well a worker works. A worker that is lost is told by its own
event and started again by its supervisor."""


class ObserveOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker that fails `breaker_failures` of its latest `breaker_window` requests gets nothing for
    `breaker_open_s`, then one request at a time; each one that fails doubles the wait, up to
    `breaker_most_s`. A probe has failed, too, when it has no token and no end after `breaker_probe_s`,
    or at the deadline of its request. `breaker_failures = 0`: no breaker."""

    breaker_failures: int = 5
    breaker_window: int = 20
    breaker_open_s: float = 5.0
    breaker_most_s: float = 60.0
    breaker_probe_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.breaker_failures <= self.breaker_window:
            raise ValueError(
                f"breaker_failures={self.breaker_failures} must be 0 (no breaker) to "
                f"breaker_window={self.breaker_window}"
            )
        if not 0.0 < self.breaker_open_s <= self.breaker_most_s:
            raise ValueError(
                f"breaker_open_s={self.breaker_open_s} must be above 0 and at most "
                f"breaker_most_s={self.breaker_most_s}"
            )
        if not self.breaker_probe_s > 0.0:
            raise ValueError(f"breaker_probe_s={self.breaker_probe_s} must be above 0")


REFUSING_S = 0.25
"""A worker that did not take a node is left alone for so long, or until it is up again: its death is
heard within milliseconds, if it has died."""


class Observe(Operator):
    """Keeps the fleet true and ends here what only informs, or comes too late to matter.

    An answer about a node that holds no reservation is late: its request has gone on without it.
    The others are what the breakers of the workers go by.
    """

    name = "observe"
    takes = {
        NodeAccepted: "accepted",
        FirstToken: "first_token",
        NodeDone: "done",
        NodeFailed: "node_failed",
        WorkerJoin: "join",
        WorkerUp: "up",
        WorkerDown: "down",
        WorkerLeave: "leave",
        Drain: "drain",
        KvBatch: "blocks",
        Load: "load",
        Timer: "timer",
    }
    emits = (NodeDone, NodeFailed, WorkerJoin, WorkerUp, WorkerDown, WorkerLeave, Drain, Timer)
    Options = ObserveOptions
    live = frozenset(ObserveOptions.__struct_fields__)

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        self._breakers: dict[int, Breaker] = {}
        """By row; only of workers that have failed lately: a healthy fleet pays nothing."""
        self._rule = _rule(options)

    def accepted(self, event: NodeAccepted) -> Emitted:
        job = self.plane.running.get(event.node)
        if job is not None:
            job.accepted = event.now if event.at is None else event.at

    def first_token(self, event: FirstToken) -> Emitted:
        self.plane.prefix.answered(event.node, event.cached)
        job = self.plane.running.get(event.node)
        if self._breakers:
            self._heard(event.node)
        if job is not None and job.first_token is None:
            job.first_token = event.now if event.at is None else event.at
            job.cached = event.cached
        if self.plane.fleet.prefilling:
            self.plane.fleet.begun(event.node)

    def done(self, event: NodeDone) -> Emitted:
        fleet = self.plane.fleet
        held = fleet.release(event.node)
        if held is None:
            return None
        if event.finish_reason != "cancelled":
            self.plane.prefix.answered(event.node, event.cached)
        self.plane.prefix.ended(event.node, event.now)
        if self._breakers:
            self._ended(event, held)
        if fleet.traits.watched and event.finish_reason != "cancelled":
            job = self.plane.running.get(event.node)
            if job is not None and job.placed is not None:
                fleet.traits.responded(held.row, (event.now - job.placed) * 1e3)
        return event

    def node_failed(self, event: NodeFailed) -> Emitted:
        held = self.plane.fleet.release(event.node)
        if held is None:
            return None
        self.plane.prefix.ended(event.node, event.now, failed=True)
        if event.reason == "worker_lost":
            self._refused(event, self.plane.fleet.ids[held.row])
        elif event.reason not in NOT_ITS_FAULT and self._rule.failures:
            self._answered(event, held, ok=False)
        return event

    def _refused(self, event: NodeFailed, worker: WorkerId) -> None:
        """Else what is given back would be given to it again, and again, until its death is heard."""
        if self.plane.fleet.refuses(worker):
            self.plane.timers.at(event.now + REFUSING_S, "refusing", worker)

    def timer(self, event: Timer) -> Emitted:
        if event.kind == "refusing":
            self.plane.fleet.forgive(WorkerId(event.key))
        if event.kind == "breaker":
            row = self.plane.fleet.rows[WorkerId(event.key)]
            self._breakers[row].waited()
            self._trust(
                event, row, "half_open", "it was open long enough; its next request probes it"
            )
            self._look_again(event, WorkerId(event.key), self.options.breaker_probe_s)
        if event.kind == "probe":
            self._probe_hangs(event, WorkerId(event.key))
        return event

    def join(self, event: WorkerJoin) -> Emitted:
        fleet, models = self.plane.fleet, (event.model, *event.models)
        fleet.join(event.worker, *models, role=event.role, price=event.price, place=event.place)
        row = fleet.rows[event.worker]
        self.plane.classes[row] = WorkerClass(
            event.hardware, event.model, "", event.tensor_parallel, event.ranks
        )
        self._tell_ledger(event)
        return event

    def up(self, event: WorkerUp) -> Emitted:
        fleet = self.plane.fleet
        if fleet.left(event.worker):
            return event
        self._forgive(event, event.worker, "it came up")
        models = (event.model, *event.models)
        fleet.up(event.worker, models, event.slots, event.max_model_len, event.tasks)
        self._meet(event)
        self._tell_ledger(event)
        return event

    def down(self, event: WorkerDown) -> Emitted:
        self._lose(event)
        self.plane.fleet.down(event.worker)
        self._forgive(event, event.worker, "it went down")
        return event

    def leave(self, event: WorkerLeave) -> Emitted:
        self._lose(event)
        if event.returns:
            self.plane.fleet.away(event.worker)
        else:
            self.plane.fleet.down(event.worker, gone=True)
            self.plane.classes.pop(self.plane.fleet.rows.get(event.worker, -1), None)
        self._forgive(event, event.worker, "it left")
        return event

    def drain(self, event: Drain) -> Emitted:
        self.plane.fleet.drain(event.worker)
        return event

    def blocks(self, event: KvBatch) -> Emitted:
        self.plane.prefix.take(event)

    def load(self, event: Load) -> Emitted:
        if self.plane.fleet.left(event.worker):
            return
        row = self.plane.fleet.rows[event.worker]
        self.plane.fleet.kv_usage[row] = event.kv_usage
        kind = self.plane.classes.get(row)
        if event.steps and kind is not None:
            steps = [(Step(*step[:4]), step[4]) for step in event.steps]
            self.plane.costs.learn(kind, steps)
            self._tell_speed(kind)

    # -- speed ----------------------------------------------------------------------------------

    def _meet(self, event: WorkerUp) -> None:
        """Who it is, and what is known of its kind."""
        plane = self.plane
        row = plane.fleet.rows[event.worker]
        plane.prefix.up(event.worker, event.model, event.models, event.prefixes)
        traits = plane.fleet.traits
        traits.splits[row] = {"prefill", "decode"} <= set(event.kinds)
        traits.fetches[row] = event.fetches
        traits.stands(row, event.place)
        kind = plane.classes[row]._replace(model=event.model, engine=event.engine)
        plane.classes[row] = kind
        given = None if event.step_ms is None else np.array(event.step_ms)
        plane.costs.open(kind, given)
        self._tell_speed(kind)

    def _tell_speed(self, kind: WorkerClass) -> None:
        """All workers of a class learn from each of them."""
        coefficients = self.plane.costs.coefficients(kind)
        if coefficients is not None:
            for row, other in self.plane.classes.items():
                if other == kind:
                    self.plane.fleet.traits.speed(row, coefficients)

    def configure(self, event: ConfigSet) -> Emitted:
        super().configure(event)
        self._rule = _rule(self.options)
        if not self._rule.failures:
            for breaker in list(self._breakers.values()):
                self._forgive(event, breaker.worker, "breakers were turned off")
        return event

    # -- breakers -----------------------------------------------------------------------------

    def _answered(self, event: Event, held: Reservation, *, ok: bool) -> None:
        row = held.row
        breaker = self._breakers.get(row)
        if breaker is None:
            if ok or self.plane.fleet.state[row] == GONE:  # nobody is there to be trusted
                return
            breaker = self._breakers[row] = Breaker(self.plane.fleet.ids[row])
        if breaker.answered(ok, self._rule, probe=held.probe):
            if breaker.state == OPEN:
                self._opened(event, row, breaker)
            else:
                self._trust(event, row, "closed", "its probe was answered")
        if breaker.idle:
            del self._breakers[row]

    def _ended(self, event: NodeDone, held: Reservation) -> None:
        """A request that was cancelled says nothing, unless time was up and its probe silent."""
        ok = event.finish_reason != "cancelled"
        if not ok:
            job = self.plane.running.get(event.node)
            late = job is not None and job.cancelled == "deadline_expired"
            if not late or not held.probe or held.heard:
                return
        self._answered(event, held, ok=ok)

    def _heard(self, node: NodeId) -> None:
        held = self.plane.fleet.reservations.get(node)
        if held is not None:
            held.heard = True

    def _probe_hangs(self, event: Timer, worker: WorkerId) -> None:
        """Looked at as long as it is half open: a probe that hangs would keep everybody else out."""
        fleet, limit = self.plane.fleet, self.options.breaker_probe_s
        row = fleet.rows[worker]
        probe = fleet.probe_of(row)
        if probe is None or fleet.reservations[probe].heard:
            self._look_again(event, worker, limit)
            return
        job = self.plane.running.get(probe)
        placed = None if job is None else job.placed
        if placed is not None and event.now < placed + limit:
            self._look_again(event, worker, placed + limit - event.now)
            return
        # Without a job its request was told that it is over, and the worker still holds it.
        self._answered(event, fleet.reservations[probe], ok=False)

    def _look_again(self, event: Event, worker: WorkerId, after_s: float) -> None:
        self.plane.timers.at(event.now + after_s, "probe", worker, daemon=True)

    def _opened(self, event: Event, row: int, breaker: Breaker) -> None:
        wait = breaker.wait_s(self._rule)
        self.plane.timers.at(event.now + wait, "breaker", breaker.worker)
        why = (
            f"{breaker.failures} of its latest {self._rule.window} requests failed"
            if breaker.opened == 1
            else "its probe failed"
        )
        self._trust(event, row, "opened", f"{why}; open for {wait:.1f} s, time {breaker.opened}")

    def _forgive(self, event: Event, worker: WorkerId, why: str) -> None:
        """What it did before counts no more."""
        row = self.plane.fleet.rows.get(worker)
        if row is None:
            return
        breaker = self._breakers.pop(row, None)
        if breaker is not None and breaker.state != CLOSED:
            self.plane.timers.cancel("breaker", breaker.worker)
            self._trust(event, row, "closed", why)

    def _trust(self, event: Event, row: int, change: str, why: str) -> None:
        fleet = self.plane.fleet
        if change != "half_open":
            self.plane.timers.cancel("probe", fleet.ids[row])
        fleet.set_breaker(row, CHANGES[change])
        self.plane.ledger.breaker(event.seq, event.now, fleet.ids[row], change, why)

    def check_integrity(self) -> None:
        """The room that a worker offers is what its breaker says."""
        fleet = self.plane.fleet
        for row, worker in enumerate(fleet.ids):
            breaker = self._breakers.get(row)
            said = CLOSED if breaker is None else breaker.state
            if fleet.breaker[row] != said:
                raise IntegrityError(f"worker {worker!r}: its breaker and its room differ")

    # -- inside -------------------------------------------------------------------------------

    def _lose(self, event: WorkerDown | WorkerLeave) -> None:
        self.plane.prefix.down(event.worker)
        for node in event.lost:
            self.plane.fleet.release(NodeId(node))
            self.plane.prefix.ended(NodeId(node), event.now, failed=True)

    def _tell_ledger(self, event: WorkerJoin | WorkerUp) -> None:
        fleet = self.plane.fleet
        self.plane.ledger.fleet(event.seq, event.now, fleet.version, fleet.ids)


CHANGES = {"opened": OPEN, "half_open": HALF_OPEN, "closed": CLOSED}
"""What the ledger calls a change, and the state after it."""


def _rule(options: ObserveOptions) -> BreakerRule:
    return BreakerRule(
        options.breaker_failures,
        options.breaker_window,
        options.breaker_open_s,
        options.breaker_most_s,
    )
