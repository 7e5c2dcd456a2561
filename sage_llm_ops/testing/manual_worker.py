"""A worker that does nothing until it is told to: the caller plays the engine."""

from __future__ import annotations

import os
from typing import Any

from sage_llm_ops.engines.base import Sign, Uplink
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import PROTOCOL, Accepted, Done, EngineEvent, Failed, Hello, Tokens

CAPABLE = Capabilities(
    sampling=SamplingParams.__struct_fields__, max_model_len=4096, max_num_seqs=8
)


class ManualWorker:
    """The `Worker` protocol. Reports run on the thread that calls the verbs below it."""

    def __init__(
        self,
        identity: str,
        uplink: Uplink,
        *,
        model: str = "m",
        slots: int | None = None,
        capabilities: Capabilities = CAPABLE,
    ) -> None:
        self.id = WorkerId(identity)
        self.instance = ExecutionInstance(identity, model_name=model, max_concurrency=slots)
        self.incarnation = 0
        self.engine = "manual"
        self.held: dict[NodeId, PlanNode] = {}
        self.taken: list[PlanNode] = []
        """Every node it was ever given."""
        self.cancelled: list[NodeId] = []
        self.alive = False
        self.sign: Sign | None = None
        """What it gives to whoever asks whether it lives."""
        self._made: dict[NodeId, int] = {}
        self._uplink = uplink
        self._capabilities = capabilities

    # -- the plane's side ---------------------------------------------------------------------

    def start(self) -> None:
        """It is up at once."""
        self.incarnation += 1
        self.alive = True
        model = self.instance.model_name
        hello = Hello(PROTOCOL, self.engine, "1", model, "", os.getpid(), self._capabilities)
        self._uplink.on_up(self.id, self.incarnation, hello)

    def submit(self, node: PlanNode) -> bool:
        """Keep the node."""
        if not self.alive:
            return False
        self._made[node.id] = 0
        self.held[node.id] = node
        self.taken.append(node)
        return True

    def cancel(self, node: NodeId) -> None:
        """Note it."""
        self.cancelled.append(node)

    def stop(self, timeout_s: float) -> None:
        """Gone."""
        self.alive = False

    def kill(self, reason: str = "killed on request") -> None:
        """Crash."""
        self.alive = False
        self.held.clear()
        self._uplink.on_down(self.id, self.incarnation, reason)

    def probe(self) -> Sign | None:
        """As it was told."""
        return self.sign if self.alive else None

    def describe(self) -> dict[str, Any]:
        """For people."""
        state = "up" if self.alive else "down"
        return {"id": self.id, "placement": "manual", "engine": self.engine, "state": state}

    # -- the engine's side --------------------------------------------------------------------

    def node_of(self, request: str) -> PlanNode:
        """The node it holds for a request."""
        return next(node for node in self.held.values() if node.request == request)

    def tokens(self, node: PlanNode, *ids: int, cached: int = 0) -> None:
        """The next tokens."""
        offset = node.offset + self._made[node.id]
        self._made[node.id] += len(ids)
        self.report(Tokens(node.id, offset, list(ids), cached))

    def done(self, node: PlanNode, *ids: int, reason: str = "length") -> None:
        """The last tokens and the end."""
        self.held.pop(node.id, None)
        offset = node.offset + self._made[node.id]
        made = self._made.pop(node.id) + len(ids)
        last = [Tokens(node.id, offset, list(ids))] if ids else []
        self.report(*last, Done(node.id, reason, node.n_tokens, made))

    def fail(self, node: PlanNode, code: str = "engine_failed") -> None:
        """It breaks on the node."""
        self.held.pop(node.id, None)
        self.report(Failed(node.id, code, "scripted"))

    def accept(self, node: PlanNode) -> None:
        """It holds the node."""
        self.report(Accepted(node.id))

    def report(self, *events: EngineEvent) -> None:
        """Anything, also what no engine should say."""
        self._uplink.on_events(self.id, self.incarnation, events)
