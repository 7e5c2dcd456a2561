"""The real SAGE graph of a pipeline, driven one event at a time, with a model that checks it.

    with Harness(spec) as graph:
        graph.join("w0"), graph.up("w0", slots=1)
        graph.arrive("a"), graph.arrive("b")
        node = graph.node_of("a")
        graph.done(node)
        assert graph.codes("a") == [""]

Every verb puts one event into the source and returns when its dispatch has ended; then `check`
compares the graph with the harness's own account: what was accepted waits, or runs, or has ended
once; reservations are exactly the nodes that workers hold; nobody waits while there is room; no
attempt was offered twice within one capacity epoch. Workers are the caller's hands: nothing
happens to a node until `accepted`, `first_token`, `done`, `fail`, `down` or `leave` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from sage.runtime import StopSignal

from sage_llm_ops.operators import OPERATORS, Operator, Plane
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.sage_graph import close, wire
from sage_llm_ops.pipeline.timers import TimerHeap
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import (
    Arrive,
    Cancel,
    ConfigSet,
    Drain,
    Event,
    FirstToken,
    Job,
    NodeAccepted,
    NodeDone,
    NodeFailed,
    Outcome,
    WorkerDown,
    WorkerJoin,
    WorkerLeave,
    WorkerUp,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request

MODEL = "m"


class SteppedSource(TimerHeap):
    """Gives SAGE one event and tells when SAGE comes back for the next."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._inbox: SimpleQueue[Event | None] = SimpleQueue()
        self._asked = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._seq = 0

    def __call__(self) -> Any:
        """SAGE's poll."""
        self._thread = threading.current_thread()
        self._asked.release()
        event = self._inbox.get()
        return StopSignal("closed") if event is None else event

    def step(self, event: Event, now: float) -> None:
        """Stamp the event and return when its dispatch has ended."""
        self._seq += 1
        event.seq, event.now = self._seq, now
        self._inbox.put(event)
        self.wait(event)

    def wait(self, event: Event | None = None) -> None:
        """Until SAGE asks for an event."""
        for _ in range(int(self._patience_s / 0.05)):
            if self._asked.acquire(timeout=0.05):
                return
            if self._thread is not None and not self._thread.is_alive():
                raise IntegrityError(f"the source's thread died of {event!r}")
        raise IntegrityError(f"the dispatch of {event!r} does not end")

    def close(self) -> None:
        """Let the source end."""
        self._inbox.put(None)


@dataclass(slots=True)
class Held:
    """A node on a worker, as the worker would see it."""

    node: PlanNode
    job: Job
    cancelled: bool = False


class ManualHands:
    """Keeps what the graph hands out."""

    def __init__(self) -> None:
        self.held: dict[NodeId, Held] = {}
        self.ends: dict[RequestId, list[Outcome]] = {}
        self.executed: list[PlanNode] = []

    def execute(self, node: PlanNode, job: Job) -> None:
        """The worker has it from now on."""
        self.executed.append(node)
        self.held[node.id] = Held(node, job)

    def cancel(self, node: NodeId, worker: WorkerId) -> None:
        """The worker knows."""
        self.held[node].cancelled = True

    def deliver(self, outcome: Outcome) -> None:
        """The caller knows."""
        self.ends.setdefault(outcome.job.request.id, []).append(outcome)


RANKS: dict[str, Callable[[Job], Any]] = {
    "fifo": lambda job: job.seq,
    "priority": lambda job: (job.request.priority, job.seq),
}
"""Our own account of the orders that a strategy promises."""


class Offers:
    """A prefix view that knows nothing, but sees every offer."""

    def __init__(self) -> None:
        self.plane: Plane | None = None
        self.seen: set[tuple[RequestId, int, int]] = set()
        self.twice: list[tuple[RequestId, int, int]] = []
        self.order: list[RequestId] = []
        self.schedule: Schedule | None = None
        self.unfair: list[str] = []

    def match(self, request: Request) -> Mapping[WorkerId, int] | None:
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


class Harness:
    """One graph, one thread of control: yours."""

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        registry: Mapping[str, type[Operator]] = OPERATORS,
        fuse: bool = True,
        patience_s: float = 10.0,
    ) -> None:
        self.now = 0.0
        self.hands = ManualHands()
        self.offers = Offers()
        self.source = SteppedSource(patience_s)
        self.ledger = Ledger()
        self.plane = self.offers.plane = Plane(self.source, self.hands, self.ledger, self.offers)
        graph = check(spec, registry)
        self.operators = graph.operators(self.plane)
        self.offers.schedule = self.schedule
        self.refused: list[Outcome] = []
        self.accepted: set[RequestId] = set()
        self.broken = 0
        """Defects the test has injected itself, and expects to be counted."""
        self._closed = False
        self._env = wire(graph, self.operators, self.source, fuse=fuse)
        self._env.submit()
        self.source.wait()

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the graph; idempotent."""
        if not self._closed:
            self._closed = True
            self.source.close()
            close(self._env)

    # -- requests -----------------------------------------------------------------------------

    def arrive(
        self,
        identity: str,
        *,
        priority: int = 2,
        max_tokens: int = 8,
        timeout_s: float | None = None,
        **fields: Any,
    ) -> bool:
        """Post a request; False where it was refused."""
        request = make_request(
            identity, max_tokens=max_tokens, priority=priority, timeout_s=timeout_s, **fields
        )
        return self.arrive_request(request)

    def arrive_request(self, request: Request) -> bool:
        """`arrive` with a request of your own making."""
        request.arrived = self.now
        before = self.plane.jobs.get(request.id)
        known = len(self.hands.ends.get(request.id, ()))
        self._post(Arrive(request=request))
        job = self.plane.jobs.get(request.id)
        new = self.hands.ends.get(request.id, [])[known:]
        refused = before is not None or (job is None and not (new and self._was_accepted(new[0])))
        if refused:
            assert len(new) == 1, f"a refusal must be told once, not {len(new)} times"
            self.refused += new
            if known:
                del self.hands.ends[request.id][known:]
            else:
                del self.hands.ends[request.id]
        else:
            self.accepted.add(request.id)
            assert not known, "the harness wants fresh ids"
        self.check()
        return not refused

    def cancel(self, identity: str) -> None:
        """The caller leaves."""
        self.step(Cancel(request=RequestId(identity)))

    def codes(self, identity: str) -> list[str]:
        """Codes of the ends so far: none or one, if all is well."""
        return [end.code for end in self.hands.ends.get(RequestId(identity), [])]

    def end_of(self, identity: str) -> Outcome:
        """The one end."""
        (end,) = self.hands.ends[RequestId(identity)]
        return end

    def node_of(self, identity: str) -> NodeId:
        """The node that runs for this request."""
        node = self.plane.jobs[RequestId(identity)].node
        assert node is not None, f"{identity} does not run"
        return node

    def worker_of(self, identity: str) -> str:
        """Where it runs."""
        return self.hands.held[self.node_of(identity)].node.worker

    def waiting(self) -> list[RequestId]:
        """Who waits, in the strategy's order."""
        return [job.request.id for job in self.schedule.strategy]

    @property
    def schedule(self) -> Schedule:
        """The graph's Schedule."""
        return next(op for op in self.operators.values() if isinstance(op, Schedule))

    # -- what workers say ---------------------------------------------------------------------

    def says_accepted(self, node: NodeId) -> None:
        """The engine holds it."""
        self.step(NodeAccepted(node=node))

    def first_token(self, node: NodeId, cached: int = 0) -> None:
        """The first token reached the stream."""
        self.step(FirstToken(node=node, cached=cached))

    def done(self, node: NodeId, n_tokens: int | None = None, reason: str = "length") -> None:
        """The engine finished it, by default with all the tokens it may make."""
        held = self.hands.held.pop(node)
        left = held.job.request.max_tokens - held.node.offset
        count = left if n_tokens is None else n_tokens
        self.step(NodeDone(node=node, finish_reason=reason, n_tokens=count))

    def acknowledge(self, node: NodeId, n_tokens: int = 0) -> None:
        """The engine has stopped a cancelled node."""
        assert self.hands.held[node].cancelled
        self.done(node, n_tokens, "cancelled")

    def fail(self, node: NodeId, reason: str = "engine_failed", delivered: int = 0) -> None:
        """The engine broke on it."""
        del self.hands.held[node]
        self.step(NodeFailed(node=node, reason=reason, message="scripted", delivered=delivered))

    # -- fleet --------------------------------------------------------------------------------

    def join(self, worker: str, model: str = MODEL) -> None:
        """Registered, not up."""
        self.step(WorkerJoin(worker=WorkerId(worker), model=model))

    def up(
        self,
        worker: str,
        slots: int = 2,
        model: str = MODEL,
        max_model_len: int = 4096,
        tasks: tuple[str, ...] = ("generate",),
    ) -> None:
        """It takes nodes."""
        event = WorkerUp(
            worker=WorkerId(worker),
            model=model,
            slots=slots,
            max_model_len=max_model_len,
            tasks=tasks,
        )
        self.step(event)

    def add(self, worker: str, slots: int = 2, **fields: Any) -> None:
        """Join and up."""
        self.join(worker, fields.get("model", MODEL))
        self.up(worker, slots, **fields)

    def down(self, worker: str, delivered: int = 0) -> None:
        """It died, each of its nodes having brought so many tokens."""
        lost = self._lose(worker, delivered)
        self.step(WorkerDown(worker=WorkerId(worker), reason="scripted", lost=lost))

    def leave(self, worker: str, delivered: int = 0) -> None:
        """It is gone for good."""
        lost = self._lose(worker, delivered)
        self.step(WorkerLeave(worker=WorkerId(worker), reason="scripted", lost=lost))

    def drain(self, worker: str) -> None:
        """It gets nothing new."""
        self.step(Drain(worker=WorkerId(worker)))

    def on(self, worker: str) -> list[NodeId]:
        """Nodes the worker holds, oldest first."""
        return [n for n, held in self.hands.held.items() if held.node.worker == worker]

    # -- time and settings --------------------------------------------------------------------

    def advance(self, seconds: float) -> int:
        """Let time pass; due timers fire in their order. How many did."""
        end = self.now + seconds
        fired = 0
        while (due := self.source.next_at()) is not None and due <= end:
            self.now = max(self.now, due)
            self.step(self.source.pop())
            fired += 1
        self.now = end
        return fired

    def configure(self, operator: str, option: str, value: Any) -> None:
        """Set a live option."""
        self.step(ConfigSet(operator=operator, option=option, value=value))

    # -- checking -----------------------------------------------------------------------------

    def step(self, event: Event) -> None:
        """One event, checked."""
        self._post(event)
        self.check()

    def check(self) -> None:
        """Compare the graph with our own account of it."""
        plane = self.plane
        if plane.broken != self.broken:
            raise IntegrityError(f"{plane.broken} operator calls failed, {self.broken} expected")
        plane.fleet.check_integrity()
        for operator in self.operators.values():
            operator.check_integrity()
        self._check_requests()
        self._check_load()
        self._check_offers()

    def check_empty(self) -> None:
        """Everything has ended and has left nothing behind."""
        plane = self.plane
        left = {
            "jobs": plane.jobs,
            "running": plane.running,
            "reservations": plane.fleet.reservations,
            "timers": list(self.source.pending()),
            "queue": self.waiting(),
        }
        for what, found in left.items():
            if found:
                raise IntegrityError(f"{what} are left behind: {found}")
        for identity in sorted(self.accepted):
            if len(self.codes(identity)) != 1:
                raise IntegrityError(f"{identity!r} ended as {self.codes(identity)}")

    def finish_all(self, limit: int = 100_000) -> None:
        """Complete whatever runs until nothing does; cancelled nodes acknowledge."""
        for _ in range(limit):
            if not self.hands.held:
                return
            node, held = next(iter(self.hands.held.items()))
            if held.cancelled:
                self.acknowledge(node)
            else:
                self.done(node)
        raise IntegrityError(f"still running after {limit} ends")

    def _check_requests(self) -> None:
        waiting = set(self.waiting())
        running = {job.request.id for job in self.plane.running.values()}
        ended = set(self.hands.ends)
        for one, other, names in (
            (waiting, running, "waits and runs"),
            (waiting, ended, "waits and has ended"),
            (running, ended, "runs and has ended"),
        ):
            if one & other:
                raise IntegrityError(f"{sorted(one & other)} {names}")
        if waiting | running | ended != self.accepted:
            missing = self.accepted ^ (waiting | running | ended)
            raise IntegrityError(f"accepted differs from waiting, running and ended: {missing}")
        if set(self.plane.jobs) != waiting | running:
            raise IntegrityError("jobs are not those that wait or run")
        for identity, ends in self.hands.ends.items():
            if len(ends) != 1:
                raise IntegrityError(f"{identity!r} ended {len(ends)} times")

    def _check_load(self) -> None:
        fleet = self.plane.fleet
        if set(fleet.reservations) != set(self.hands.held):
            wrong = set(fleet.reservations) ^ set(self.hands.held)
            raise IntegrityError(f"reservations are not what workers hold: {wrong}")
        running = [0] * len(fleet.ids)
        tokens = [0] * len(fleet.ids)
        for held in self.hands.held.values():
            row = fleet.rows[WorkerId(held.node.worker)]
            running[row] += 1
            tokens[row] += held.node.n_tokens + held.job.request.max_tokens - held.node.offset
        if fleet.running[: len(running)].tolist() != running:
            raise IntegrityError(f"the fleet counts other nodes than {running}")
        if fleet.tokens[: len(tokens)].tolist() != tokens:
            raise IntegrityError(f"the fleet counts other tokens than {tokens}")

    def _check_offers(self) -> None:
        if self.offers.twice:
            raise IntegrityError(f"offered twice within one epoch: {self.offers.twice}")
        if self.offers.unfair:
            raise IntegrityError(f"out of order: {self.offers.unfair}")
        for job in self.schedule.strategy:
            if self.plane.fleet.with_room(job.needs).size:
                raise IntegrityError(f"{job.request.id!r} waits while there is room for it")
            if not self.plane.fleet.may_serve(job.needs):
                raise IntegrityError(f"{job.request.id!r} waits for what nobody can give")

    # -- inside -------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        self.source.step(event, self.now)

    def _lose(self, worker: str, delivered: int) -> dict[int, int]:
        lost = {}
        for node in self.on(worker):
            held = self.hands.held.pop(node)
            left = held.job.request.max_tokens - held.node.offset
            lost[int(node)] = min(delivered, left)
        return lost

    @staticmethod
    def _was_accepted(end: Outcome) -> bool:
        """Let in, and ended within the same dispatch: only a defect in an operator does that."""
        return end.code == "integrity"
