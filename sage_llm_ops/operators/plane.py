"""What the operators of one graph share. State lives here, in the fleet and in Schedule's queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sage_llm_ops.cost_model import CostBook, WorkerClass
from sage_llm_ops.fleet import Fleet
from sage_llm_ops.operators.outlook import FleetOutlook
from sage_llm_ops.scheduler_ir import Admission, Quarantine
from sage_llm_ops.telemetry import Ledger, Metrics
from sage_llm_ops.types.events import Job, KvBatch, Outcome
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.kv import PrefixCache
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request


class Timers(Protocol):
    """Moments that come back as Timer events. Owned by the source; called on its thread."""

    def at(self, when: float, kind: str, key: str, *, daemon: bool = False) -> None:
        """Ask for a Timer. A simulation ends when only daemon timers remain."""

    def cancel(self, kind: str, key: str) -> None:
        """It is not wanted any more. Nothing happens where there is none."""


class Hands(Protocol):
    """Where decisions leave the graph: towards workers, and towards callers.

    Called on the source's thread, never raises, never blocks. A replay's hands do nothing.
    """

    def execute(self, node: PlanNode, job: Job) -> None:
        """Give the node to its worker; whatever becomes of it comes back through the source."""

    def cancel(self, node: NodeId, worker: WorkerId) -> None:
        """Tell the worker to stop the node."""

    def deliver(self, outcome: Outcome) -> None:
        """The one end of a request."""


class PrefixView(Protocol):
    """Who holds which prefix. Observe and Route write, PrefixLookup asks."""

    def match(self, request: Request, now: float) -> Mapping[WorkerId, int] | None:
        """Reusable prompt tokens per worker; None where nothing is known."""

    @property
    def shared(self) -> int:
        """Of the request that was looked up last: leading prompt tokens after which others went on in
        another way; 0 where nobody did, or went on from elsewhere."""

    def placed(self, node: NodeId, request: Request, worker: WorkerId, now: float) -> None:
        """The worker is given the request: it will have its prompt."""

    def answered(self, node: NodeId, cached: int) -> None:
        """Its first token came; so much of the prompt was cached."""

    def ended(self, node: NodeId, now: float, *, failed: bool = False) -> None:
        """The node is not there any more."""

    def up(
        self, worker: WorkerId, model: str, models: tuple[str, ...], cache: PrefixCache | None
    ) -> None:
        """The worker came up, with an empty cache or with none."""

    def down(self, worker: WorkerId) -> None:
        """The worker is gone, and its cache."""

    def take(self, batch: KvBatch) -> None:
        """The worker reports what became of its cache."""

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where it contradicts itself."""


class NobodyKnows:
    """The view of a graph without a prefix index; a base for views that need little of it."""

    def match(self, request: Request, now: float) -> Mapping[WorkerId, int] | None:
        """Nothing is known."""
        return None

    @property
    def shared(self) -> int:
        return 0

    def placed(self, node: NodeId, request: Request, worker: WorkerId, now: float) -> None:
        """Nothing is learnt, here and below."""

    def answered(self, node: NodeId, cached: int) -> None: ...

    def ended(self, node: NodeId, now: float, *, failed: bool = False) -> None: ...

    def up(
        self, worker: WorkerId, model: str, models: tuple[str, ...], cache: PrefixCache | None
    ) -> None: ...

    def down(self, worker: WorkerId) -> None: ...

    def take(self, batch: KvBatch) -> None: ...

    def check_integrity(self) -> None: ...


class Plane:
    """Made by a driver, once per run."""

    def __init__(
        self, timers: Timers, hands: Hands, ledger: Ledger, prefix: PrefixView | None = None
    ) -> None:
        self.timers = timers
        self.hands = hands
        self.ledger = ledger
        self.prefix: PrefixView = prefix or NobodyKnows()
        """PrefixLookup puts its own here where the driver brought none."""
        self.fleet = Fleet()
        self.metrics = Metrics(self.fleet.rows)
        self.costs = CostBook()
        """How fast each class of workers is; Observe writes."""
        self.classes: dict[int, WorkerClass] = {}
        """By row of the fleet; Observe writes."""
        self.outlook = FleetOutlook(self.fleet)
        self.admission = Admission()
        """Who of each tenant is inside; Admit and Deliver."""
        self.jobs: dict[RequestId, Job] = {}
        """Accepted and not ended; Admit adds, Deliver removes."""
        self.running: dict[NodeId, Job] = {}
        """Attempts on workers; Advance adds and removes."""
        self.quarantine = Quarantine()
        """Recover adds, Admit looks and forgets."""
        self.broken = 0
        """Handlers that raised: always a defect."""
        self._nodes = 0

    def drop_next(self, job: Job) -> None:
        """The job's plan does not go on: what was reserved for its second node is free again."""
        if job.then is not None:
            self.fleet.release(job.then.id)
            self.timers.cancel("transfer", job.request.id)
            job.then = None

    @property
    def placements(self) -> int:
        """Nodes that got a place so far."""
        return self._nodes

    def next_node(self) -> NodeId:
        """Numbers in the order of placement: the same in a replay."""
        self._nodes += 1
        return NodeId(self._nodes)
