"""What travels the graph.

Events of the first part change an operator's state, so all of them enter by the one source, which
stamps `seq` and `now`; they can be recorded and read back. Those of the second part are made and
used up inside one dispatch.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.types.ids import Needs, NodeId, RequestId, WorkerId
from sage_llm_ops.types.kv import KvChange, PrefixCache
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request


class Event(msgspec.Struct, kw_only=True, gc=False, tag=True):
    """Base of everything that enters by the source. `seq` and `now` are the source's to set."""

    seq: int = 0
    now: float = 0.0


class Arrive(Event):
    """A validated request."""

    request: Request


class Cancel(Event):
    """The caller wants no more of it; or, with another `code`, somebody stops it for him and says
    why."""

    request: RequestId
    code: str = "cancelled"
    message: str = ""


class NodeAccepted(Event):
    """The worker took the node; it informs only. `at` is when, for the timings: it need not wake
    anybody, so it may come in later."""

    node: NodeId
    at: float | None = None


class FirstToken(Event):
    """The attempt's first token reached the caller's stream; it informs only.

    `at` is when: what only informs may wait at the source until something else comes.
    """

    node: NodeId
    cached: int = 0
    at: float | None = None


class NodeDone(Event):
    """The engine finished the node. `n_tokens` counts this attempt alone."""

    node: NodeId
    finish_reason: str
    n_tokens: int
    cached: int = 0


class NodeFailed(Event):
    """The node will not finish. `delivered` counts this attempt's tokens that reached the stream."""

    node: NodeId
    reason: str
    message: str
    delivered: int = 0


class WorkerUp(Event):
    """The worker can take nodes (again)."""

    worker: WorkerId
    model: str
    slots: int
    max_model_len: int
    tasks: tuple[str, ...] = ("generate",)
    models: tuple[str, ...] = ()
    """Further names that it serves: aliases of `model`, adapters on it."""
    prefixes: PrefixCache | None = None
    """The prefix cache it has; None: none, or none that it tells of."""
    kinds: tuple[str, ...] = ("fused",)
    """Plan nodes it executes."""
    fetches: bool = False
    """Whether KV can be brought to it from another worker."""
    engine: str = ""
    step_ms: tuple[float, ...] | None = None
    """What it says of its own speed, as coefficients of `cost_model/step.py`; None: nothing."""
    place: str = ""
    """Where it says it stands; what the configuration says goes before it."""


class WorkerDown(Event):
    """The worker's process ended. `lost`: the nodes that went with it, and the tokens of each that
    had reached their streams. Nodes it does not name run on a later start of the same worker, or
    were never handed over and are reported one by one."""

    worker: WorkerId
    reason: str
    lost: dict[int, int] = {}


class WorkerJoin(Event):
    """The instance is registered: it may serve `model` and `models` once it is up."""

    worker: WorkerId
    model: str
    models: tuple[str, ...] = ()
    role: str = "general"
    price: float = 0.0
    """Per second; 0 where nobody said."""
    place: str = ""
    """Where it stands, from the outside in: rack/host/socket."""
    hardware: str = ""
    tensor_parallel: int = 1
    ranks: tuple[int, int, int] = (1, 1, 1)
    """Pipeline, data and expert parallelism."""


class Drain(Event):
    """Give the worker nothing new. Its running nodes go on."""

    worker: WorkerId


class WorkerLeave(Event):
    """The instance is gone, for good unless `returns`; what it still holds fails over.

    `returns`: another definition takes its id next, by a `WorkerJoin`; who waits for it goes on
    waiting.
    """

    worker: WorkerId
    reason: str
    lost: dict[int, int] = {}
    returns: bool = False


class KvBatch(Event):
    """What became of blocks in a worker's prefix cache, in the order in which it happened."""

    worker: WorkerId
    incarnation: int
    """Of the worker's start that it is about; what an earlier one did is of no interest any more."""
    number: int
    """Counts the engine's batches from 0. A large one comes in parts of the same number."""
    changes: list[KvChange]
    count: int = 1
    """How many of them are in it, from `number` on."""
    more: bool = False
    """A further part follows."""
    reset: bool = False
    """Batches before it are lost for good, or the engine started anew: forget what was told."""


class Load(Event):
    """What a worker says about itself; it informs only."""

    worker: WorkerId
    running: int
    waiting: int
    kv_usage: float
    steps: tuple[tuple[int, int, int, int, float], ...] = ()
    """Some of its latest steps: tokens, pairs, decodes, context, milliseconds."""


class ConfigSet(Event):
    """Change a live option of one operator, in order with everything else."""

    operator: str
    option: str
    value: int | float | str | bool


class Timer(Event):
    """A moment that an operator asked for."""

    kind: str
    key: str


Recorded = (
    Arrive
    | Cancel
    | NodeAccepted
    | FirstToken
    | NodeDone
    | NodeFailed
    | WorkerJoin
    | WorkerUp
    | WorkerDown
    | Drain
    | WorkerLeave
    | KvBatch
    | Load
    | ConfigSet
    | Timer
)


class Job:
    """One accepted request on its way; from Admit to Outcome the graph holds exactly one."""

    __slots__ = (
        "accepted",
        "attempt",
        "cached",
        "cancel_message",
        "cancelled",
        "deaths",
        "delivered",
        "excluded",
        "first_token",
        "needs",
        "node",
        "placed",
        "refused",
        "request",
        "seq",
        "then",
        "transfer_s",
        "worker",
    )

    def __init__(self, request: Request, seq: int) -> None:
        self.request = request
        self.seq = seq
        """Arrival order: kept over retries."""
        self.needs: Needs = (request.model, request.task, request.pin)
        """What a worker must offer; requests with the same needs wait for the same capacity."""
        self.attempt = 0
        self.refused = 0
        """Attempts that no worker ever took, or that one gave back by leaving in order."""
        self.delivered = 0
        """Tokens in the caller's stream, over all attempts."""
        self.deaths = 0
        self.excluded: tuple[WorkerId, ...] = ()
        """Workers that failed it; avoided while there is another."""
        self.node: NodeId | None = None
        """The running attempt, None while it waits."""
        self.worker: WorkerId | None = None
        self.placed: float | None = None
        self.accepted: float | None = None
        """When the running attempt's worker said that it holds it."""
        self.first_token: float | None = None
        self.cached = 0
        self.then: PlanNode | None = None
        """The plan's second node: reserved, and not handed over before the first one ended and its
        KV had time to arrive."""
        self.transfer_s = 0.0
        self.cancelled = ""
        """Error code of a stop that was asked for and is not acknowledged yet."""
        self.cancel_message = ""
        """What its caller is told then."""


class Inner(msgspec.Struct, gc=False):
    """Base of what lives within one dispatch; `seq` and `now` are those of the event it came from."""

    seq: int
    now: float
    job: Job


class Admitted(Inner):
    """Accepted: it waits for its turn."""


class AttemptFailed(Inner):
    """The running attempt is over without an end. `died`: its worker went with it."""

    reason: str
    message: str
    died: bool


class Offer(Inner):
    """The best pending request, looking for a place. At most one exists at a time."""

    hits: dict[WorkerId, int] | None = None
    """Reusable prompt tokens per worker; None where nobody knows."""
    kinds: tuple[str, ...] = ()
    """The plan's node kinds, in order."""
    split_reason: str = ""
    transfer_s: float = 0.0
    """How long KV is on its way between the plan's nodes."""
    pooled: bool = False
    """Whether the workers' roles count."""
    thrifty: bool = False
    """The order asks for the cheapest place that is in time."""
    shared: int = 0
    """Leading prompt tokens after which others went on in another way: a copy of them serves many."""


class Placed(Inner):
    """Room was found and is reserved under the node's id."""

    node: PlanNode


class NoRoom(Inner):
    """No worker has room for these needs until the fleet's capacity epoch moves beyond `epoch`."""

    epoch: int
    never: str = ""
    """Why waiting would not help."""


class NodeReady(Inner):
    """The node's inputs are there: execute it."""

    node: PlanNode


class NodeCancel(Inner):
    """Tell the worker to stop the node."""

    node: NodeId
    worker: WorkerId


class Retry(Inner):
    """Another attempt, at its original place in the order."""


class Outcome(Inner):
    """The one end of a request. `code` is empty when it completed."""

    code: str = ""
    message: str = ""
    finish_reason: str = ""
    retry_after_s: float | None = None
    """Of a refusal: when it may be worth another try."""


class Broken(Inner):
    """An operator raised on this request: Schedule frees what it holds and ends it by name."""

    operator: str = ""
    error: Any = None


Deliverable = (Offer, Outcome)
"""Kinds that may never travel a feedback edge: they would go round for ever."""
