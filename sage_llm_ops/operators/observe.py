"""Observe: the first to see every event, so that views are right before anyone decides."""

from __future__ import annotations

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import (
    Drain,
    FirstToken,
    Load,
    NodeAccepted,
    NodeDone,
    NodeFailed,
    WorkerDown,
    WorkerJoin,
    WorkerLeave,
    WorkerUp,
)
from sage_llm_ops.types.ids import NodeId


class Observe(Operator):
    """Keeps the fleet true and ends here what only informs, or comes too late to matter.

    An answer about a node that holds no reservation is late: its request has gone on without it.
    """

    name = "observe"
    takes = {
        NodeAccepted: "accepted",
        FirstToken: "first_token",
        NodeDone: "ended",
        NodeFailed: "ended",
        WorkerJoin: "join",
        WorkerUp: "up",
        WorkerDown: "down",
        WorkerLeave: "leave",
        Drain: "drain",
        Load: "load",
    }
    emits = (NodeDone, NodeFailed, WorkerUp, WorkerDown, WorkerLeave, Drain)

    def accepted(self, event: NodeAccepted) -> Emitted:
        job = self.plane.running.get(event.node)
        if job is not None:
            job.accepted = True

    def first_token(self, event: FirstToken) -> Emitted:
        job = self.plane.running.get(event.node)
        if job is not None and job.first_token is None:
            job.first_token = event.now if event.at is None else event.at
            job.cached = event.cached

    def ended(self, event: NodeDone | NodeFailed) -> Emitted:
        return None if self.plane.fleet.release(event.node) is None else event

    def join(self, event: WorkerJoin) -> Emitted:
        self.plane.fleet.join(event.worker, event.model)
        self._tell_ledger(event)

    def up(self, event: WorkerUp) -> Emitted:
        fleet = self.plane.fleet
        fleet.up(event.worker, event.model, event.slots, event.max_model_len, event.tasks)
        self._tell_ledger(event)
        return event

    def down(self, event: WorkerDown) -> Emitted:
        self._lose(event)
        self.plane.fleet.down(event.worker)
        return event

    def leave(self, event: WorkerLeave) -> Emitted:
        self._lose(event)
        self.plane.fleet.down(event.worker, gone=True)
        return event

    def drain(self, event: Drain) -> Emitted:
        self.plane.fleet.drain(event.worker)
        return event

    def load(self, event: Load) -> Emitted:
        self.plane.fleet.kv_usage[self.plane.fleet.rows[event.worker]] = event.kv_usage

    def _lose(self, event: WorkerDown | WorkerLeave) -> None:
        for node in event.lost:
            self.plane.fleet.release(NodeId(node))

    def _tell_ledger(self, event: WorkerJoin | WorkerUp) -> None:
        fleet = self.plane.fleet
        self.plane.ledger.fleet(event.seq, event.now, fleet.version, fleet.ids)
