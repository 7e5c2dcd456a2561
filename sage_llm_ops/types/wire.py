"""What crosses between the plane and a worker: one set of structs for every placement.

Frames are msgpack; both sides refuse what does not decode. Token ids go down as one int32 buffer
and come up as small lists. A finish travels in the same frame as its last tokens, so a worker that
dies can never have delivered a whole answer without its end.
"""

from __future__ import annotations

import msgspec

from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.kv import KvChange
from sage_llm_ops.types.plans import PlanNode

PROTOCOL = 3


class Hello(msgspec.Struct, tag=True, frozen=True):
    """First frame of a worker: who it is. A mismatch with what was asked for is refused."""

    protocol: int
    engine: str
    engine_version: str
    model: str
    tokenizer_hash: str
    pid: int
    capabilities: Capabilities
    place: str = ""
    """Where it stands, from the outside in, as far as its machine tells; empty: it does not know."""


class Accepted(msgspec.Struct, tag=True, gc=False):
    """The engine holds the node."""

    node: NodeId


class Tokens(msgspec.Struct, tag=True, gc=False):
    """New tokens of one node. `offset` is the place of the first one in the caller's stream."""

    node: NodeId
    offset: int
    ids: list[int]
    cached: int = 0
    """Prompt tokens that the prefix cache gave; meaningful with the node's first tokens."""


class Done(msgspec.Struct, tag=True, gc=False):
    """The node ended by itself, or as told: `stop`, `length`, `cancelled`."""

    node: NodeId
    finish_reason: str
    n_prompt: int
    n_tokens: int
    cached: int = 0
    embedding: list[float] | None = None
    counted: tuple[int, int] | None = None
    """Prompt and completion tokens as a server counts them, where the ids that came are no tokens of
    its model but the bytes of its text."""


class Failed(msgspec.Struct, tag=True, gc=False):
    """The engine refused the node or broke on it. `code` is one of `types.errors`."""

    node: NodeId
    code: str
    message: str


class Stats(msgspec.Struct, tag=True, gc=False):
    """The worker about itself, about once a second while it is busy."""

    running: int
    waiting: int
    kv_usage: float
    steps: int = 0
    rss_mb: float = 0.0
    samples: tuple[tuple[int, int, int, int, float], ...] = ()
    """Some of its latest steps: tokens, pairs, decodes, context, milliseconds (`cost_model/step.py`)."""


class CacheChanged(msgspec.Struct, tag=True, gc=False):
    """What became of the worker's prefix cache since it said so last, in the order in which it
    happened. It lies in the frame of the step that ends it, so nothing of it can be lost alone."""

    number: int
    """Counts them from 0 since the start."""
    changes: list[KvChange]


class Drained(msgspec.Struct, tag=True, gc=False):
    """Answer to Drain: nothing is left in the engine."""


class Pong(msgspec.Struct, tag=True, gc=False):
    """Answer to Ping: the step loop is alive."""

    token: int


EngineEvent = Accepted | Tokens | Done | Failed
Up = Hello | Accepted | Tokens | Done | Failed | Stats | CacheChanged | Drained | Pong


class Submit(msgspec.Struct, tag=True, gc=False):
    """Run this node."""

    node: PlanNode


class CancelNode(msgspec.Struct, tag=True, gc=False):
    """Stop this node; answered by Done(`cancelled`), unless it ended before."""

    node: NodeId


class DrainWorker(msgspec.Struct, tag=True, gc=False):
    """Say Drained once everything submitted so far has ended."""


class StopWorker(msgspec.Struct, tag=True, gc=False):
    """Shut down now."""


class Ping(msgspec.Struct, tag=True, gc=False):
    """Are you alive?"""

    token: int


Down = Submit | CancelNode | DrainWorker | StopWorker | Ping
