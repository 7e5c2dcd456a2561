"""Virtual time: what happens next in a simulation, and whom it happens to.

One heap of moments: engine steps before timers before arrivals. Engines are driven by their own
`next_wake`, so that only what a decision may depend on ever travels through SAGE.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from sage.runtime import StopSignal

from sage_llm_ops.engines.sim import SimCore, SimOptions
from sage_llm_ops.pipeline.entering import default_slots, joined
from sage_llm_ops.pipeline.timers import TimerHeap
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import (
    Arrive,
    Cancel,
    Event,
    FirstToken,
    NodeAccepted,
    NodeDone,
    NodeFailed,
    WorkerDown,
    WorkerJoin,
    WorkerUp,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Tokens


@dataclass(frozen=True, slots=True)
class Crash:
    """At `at` the worker loses everything; it is back `for_s` later."""

    at: float
    worker: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Ailing:
    """From `at` on and for `for_s` the worker fails at once whatever it is given."""

    at: float
    worker: str
    for_s: float


@dataclass(frozen=True, slots=True)
class CancelAt:
    """At `at` the caller of `request` leaves."""

    at: float
    request: str


Fault = Crash | Ailing | CancelAt
Arrival = tuple[float, Request]


class SimWorker:
    """A simulated engine and the nodes it runs."""

    def __init__(
        self,
        identity: WorkerId,
        model: str,
        options: SimOptions,
        models: tuple[str, ...] = (),
        instance: ExecutionInstance | None = None,
    ) -> None:
        self.instance = instance
        self.id = identity
        self.model = model
        self.models = models
        """Further names: a simulation takes those in the file at their word."""
        self.core = SimCore(options)
        self.delivered: dict[NodeId, int] = {}
        """Running nodes, and the tokens each has brought. Between its first token and its end
        the engine reports none: a crash then counts what came first, as a lossy stream would."""
        self.wake: float | None = None
        """The wake-up that stands in the heap; others are stale."""
        self.up = True
        self.ails_until = 0.0


class SimSource(TimerHeap):
    """Virtual time. Never returns None: SAGE would take it for idleness."""

    def __init__(self, arrivals: Iterable[Arrival], faults: Iterable[Fault]) -> None:
        super().__init__()
        self.now = 0.0
        self.arrived = 0
        self.workers: dict[WorkerId, SimWorker] = {}
        self._arrivals: Iterator[Arrival] = iter(arrivals)
        self._next: Arrival | None = next(self._arrivals, None)
        self._faults = deque(sorted(faults, key=lambda fault: fault.at))
        self._returns: list[tuple[float, str]] = []
        self._wakes: list[tuple[float, int, WorkerId]] = []
        self._ready: deque[Event] = deque()
        self._seq = 0
        self._order = 0

    def add(self, worker: SimWorker) -> None:
        """A worker that is there from the beginning."""
        self.workers[worker.id] = worker
        self._ready.append(
            joined(worker.instance)
            if worker.instance is not None
            else WorkerJoin(worker=worker.id, model=worker.model, models=worker.models)
        )
        self._ready.append(self._up(worker))

    def __call__(self) -> Any:
        """The next event in virtual time."""
        while not self._ready:
            moment = self._earliest()
            if moment is None:
                return StopSignal("nothing will happen any more")
            at, act = moment
            if at < self.now:
                raise IntegrityError(f"virtual time would go back from {self.now} to {at}")
            self.now = at
            act()
        event = self._ready.popleft()
        self._seq += 1
        event.seq, event.now = self._seq, self.now
        return event

    def rewake(self, worker: SimWorker) -> None:
        """The engine's next step may have moved: have it called then."""
        due = worker.core.next_wake()
        if due is not None and due != worker.wake:
            self._order += 1
            heappush(self._wakes, (max(due, self.now), self._order, worker.id))
        worker.wake = due

    def refuse(self, node: PlanNode, worker: SimWorker) -> None:
        """It ails: the node fails at once."""
        said = f"{worker.id} ails as scripted"
        self._ready.append(NodeFailed(node=node.id, reason="engine_failed", message=said))

    def fail(self, node: NodeId, message: str) -> None:
        """Answer for a worker that cannot."""
        self._ready.append(NodeFailed(node=node, reason="worker_lost", message=message))

    def _earliest(self) -> tuple[float, Callable[[], None]] | None:
        """Engine steps, then faults, timers and arrivals, of those that are due at the same time."""
        found: tuple[float, Callable[[], None]] | None = None
        while self._wakes and self.workers[self._wakes[0][2]].wake != self._wakes[0][0]:
            heappop(self._wakes)
        if self._wakes:
            found = (self._wakes[0][0], self._step)
        if self._returns and (found is None or self._returns[0][0] < found[0]):
            found = (self._returns[0][0], self._return)
        if self._faults and (found is None or self._faults[0].at < found[0]):
            found = (max(self.now, self._faults[0].at), self._fault)
        due = self.next_at()
        working = found is not None or self._next is not None or self.pending_work
        if due is not None and working and (found is None or due < found[0]):
            found = (max(self.now, due), self._timer)
        if self._next is not None and (found is None or self._next[0] < found[0]):
            found = (max(self.now, self._next[0]), self._arrive)
        return found

    def _step(self) -> None:
        worker = self.workers[heappop(self._wakes)[2]]
        worker.wake = None
        for _, event in worker.core.advance(self.now):
            self._report(worker, event)
        self.rewake(worker)

    def _report(self, worker: SimWorker, event: EngineEvent) -> None:
        node = event.node
        if node not in worker.delivered:
            return
        if event.__class__ is Tokens:
            assert isinstance(event, Tokens)
            if not worker.delivered[node]:
                self._ready.append(FirstToken(node=node, cached=event.cached))
            worker.delivered[node] += len(event.ids)
        elif event.__class__ is Accepted:
            self._ready.append(NodeAccepted(node=node))
        elif isinstance(event, Done):
            del worker.delivered[node]
            self._ready.append(
                NodeDone(
                    node=node,
                    finish_reason=event.finish_reason,
                    n_tokens=event.n_tokens,
                    cached=event.cached,
                )
            )
        elif isinstance(event, Failed):
            count = worker.delivered.pop(node)
            self._ready.append(
                NodeFailed(node=node, reason=event.code, message=event.message, delivered=count)
            )

    def _fault(self) -> None:
        fault = self._faults.popleft()
        if isinstance(fault, CancelAt):
            self._ready.append(Cancel(request=RequestId(fault.request)))
            return
        worker = self.workers[WorkerId(fault.worker)]
        if isinstance(fault, Ailing):
            worker.ails_until = max(worker.ails_until, fault.at + fault.for_s)
            return
        if not worker.up:
            return
        lost = {int(node): count for node, count in worker.delivered.items()}
        worker.core.reset(self.now)
        worker.delivered.clear()
        worker.up, worker.wake = False, None
        self._ready.append(WorkerDown(worker=worker.id, reason="crashed as scripted", lost=lost))
        heappush(self._returns, (self.now + fault.for_s, fault.worker))

    def _return(self) -> None:
        worker = self.workers[WorkerId(heappop(self._returns)[1])]
        worker.up = True
        self._ready.append(self._up(worker))

    def _timer(self) -> None:
        self._ready.append(self.pop())

    def _arrive(self) -> None:
        assert self._next is not None
        at, request = self._next
        request.arrived = at
        self.arrived += 1
        self._ready.append(Arrive(request=request))
        self._next = next(self._arrivals, None)

    def _up(self, worker: SimWorker) -> WorkerUp:
        can = worker.core.capabilities
        return WorkerUp(
            worker=worker.id,
            model=worker.model,
            slots=default_slots(can),
            max_model_len=can.max_model_len,
            tasks=can.tasks,
            models=(*worker.models, *can.models),
            kinds=can.node_kinds,
            fetches=can.kv_transfer,
            engine="sim",
            step_ms=can.step_ms,
        )
