"""Advance: owner of the running plans. What became ready goes out to be executed."""

from __future__ import annotations

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import (
    AttemptFailed,
    Cancel,
    Event,
    Job,
    NodeCancel,
    NodeDone,
    NodeFailed,
    NodeReady,
    Outcome,
    Placed,
    Timer,
    WorkerDown,
    WorkerLeave,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.plans import PlanNode


class AdvanceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cancel_grace_s`: how long a worker may take to acknowledge a cancel."""

    cancel_grace_s: float = 10.0


class Advance(Operator):
    """A plan has one node, or two: a prefill and the decode that goes on from it. The second one is
    ready when the first has ended and its KV had the time of the transfer; its room is reserved from
    the start, so that the KV knows where to go. Whatever ends a job gives that room back."""

    name = "advance"
    shape = "flatmap"
    takes = {
        Placed: "placed",
        NodeDone: "done",
        NodeFailed: "node_failed",
        WorkerDown: "worker_down",
        WorkerLeave: "worker_down",
        Cancel: "cancel",
        Timer: "timer",
    }
    emits = (
        NodeReady,
        NodeCancel,
        AttemptFailed,
        Outcome,
        NodeDone,
        NodeFailed,
        WorkerDown,
        WorkerLeave,
        Cancel,
        Timer,
    )
    Options = AdvanceOptions

    def placed(self, event: Placed) -> Emitted:
        self.plane.running[event.node.id] = event.job
        return NodeReady(event.seq, event.now, event.job, event.node)

    def done(self, event: NodeDone) -> Emitted:
        job = self.plane.running.pop(event.node, None)
        if job is None:
            return event  # its request has gone on without it; the room it gave back counts
        job.node = None
        job.delivered += event.n_tokens
        if job.then is not None:
            if event.finish_reason == "length" and job.delivered < job.request.max_tokens:
                return self._go_on(event, job, job.then)
            self.plane.drop_next(job)
        if event.finish_reason == "cancelled":
            return self._stopped(event, job)
        return Outcome(event.seq, event.now, job, finish_reason=event.finish_reason)

    def node_failed(self, event: NodeFailed) -> Emitted:
        job = self.plane.running.pop(event.node, None)
        if job is None:
            return event  # its request has gone on without it; the room it gave back counts
        return self._lost(event, job, event.delivered, event.reason, event.message, died=False)

    def worker_down(self, event: WorkerDown | WorkerLeave) -> Emitted:
        """In node order, whatever order the deaths of its nodes would have been noticed in."""
        out: list[Event | AttemptFailed] = [event]
        died = isinstance(event, WorkerDown)
        for node in sorted(event.lost):
            job = self.plane.running.pop(NodeId(node), None)
            if job is not None:
                delivered = event.lost[node]
                out.append(
                    self._lost(event, job, delivered, "worker_lost", event.reason, died=died)
                )
        return out

    def cancel(self, event: Cancel) -> Emitted:
        job = self.plane.jobs.get(event.request)
        if job is None or job.node is None:
            return event
        return self._stop(event, job, event.code, event.message)

    def timer(self, event: Timer) -> Emitted:
        job = self.plane.jobs.get(RequestId(event.key))
        if job is None or job.node is None:
            return event
        if event.kind == "transfer" and job.then is not None:
            node, job.then = job.then, None
            return NodeReady(event.seq, event.now, job, node)
        if event.kind == "deadline":
            return self._stop(event, job, "deadline_expired", "")
        if event.kind == "cancel_ack":
            self.plane.running.pop(job.node, None)
            job.node = None
            self.plane.drop_next(job)
            return self._stopped(event, job)
        return event

    def _go_on(self, event: NodeDone, job: Job, node: PlanNode) -> Emitted:
        """The prefill is over; the decode waits for its KV."""
        job.node, job.worker = node.id, WorkerId(node.worker)
        self.plane.running[node.id] = job
        self.plane.timers.at(event.now + job.transfer_s, "transfer", job.request.id)
        return event

    def _stop(self, event: Event, job: Job, code: str, message: str) -> Emitted:
        """Ask the worker once; the first reason stays."""
        if job.cancelled or job.node is None or job.worker is None:
            return None
        job.cancelled, job.cancel_message = code, message or STOPPED[code]
        if job.then is not None and job.then.id == job.node:  # on its way: no worker has it
            del self.plane.running[job.node]
            job.node = None
            self.plane.drop_next(job)
            return self._stopped(event, job)
        grace = event.now + self.options.cancel_grace_s
        self.plane.timers.at(grace, "cancel_ack", job.request.id)
        return NodeCancel(event.seq, event.now, job, job.node, job.worker)

    def _stopped(self, event: Event, job: Job) -> Outcome:
        code = job.cancelled or "cancelled"
        message = job.cancel_message or STOPPED[code]
        return Outcome(event.seq, event.now, job, code=code, message=message)

    def _lost(
        self, event: Event, job: Job, delivered: int, reason: str, message: str, *, died: bool
    ) -> AttemptFailed:
        job.node = None
        job.delivered += delivered
        self.plane.drop_next(job)
        return AttemptFailed(event.seq, event.now, job, reason, message, died)

    def check_integrity(self) -> None:
        """Running attempts and reservations belong together."""
        for node, job in self.plane.running.items():
            assert job.node == node, f"node {node} runs but its job says {job.node}"


STOPPED = {
    "cancelled": "cancelled by its caller",
    "deadline_expired": "its timeout passed; raise timeout_ms or add instances",
}
"""What a stopped request tells its caller, where whoever stopped it says no more."""
