"""Workers that hold what they are given until a test says how it goes on.

fleet = HeldFleet()
plane = ControlPlane(spec, make=fleet)
node = fleet["w0"].wait_for("request-1")
fleet["w0"].say("request-1", [1, 2, 3])
fleet["w0"].end("request-1")
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, final

from sage_llm_ops.engines.base import Uplink
from sage_llm_ops.testing.manual_worker import CAPABLE
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import PROTOCOL, Accepted, Done, EngineEvent, Failed, Hello, Tokens


@final
class HeldWorker:
    """A `Worker`. `starts` says why its first starts fail, one entry each; then it comes up.

    Reports go out on the calling thread, under no lock.
    """

    def __init__(
        self,
        instance: ExecutionInstance,
        uplink: Uplink,
        *,
        starts: Sequence[str] = (),
        capabilities: Capabilities = CAPABLE,
        engine: str = "held",
    ) -> None:
        self.id = WorkerId(instance.instance_id)
        self.instance = instance
        self.incarnation = 0
        self.up = False
        self.stopped = False
        self.cancels: list[str] = []
        """Requests it was asked to stop; it does so at once, unless `deaf`."""
        self.deaf = False
        self.nodes: dict[str, PlanNode] = {}
        """What it holds, by request."""
        self._made: dict[str, int] = {}
        self._starts = list(starts)
        self._uplink = uplink
        self._capabilities = capabilities
        self._engine = engine
        self._changed = threading.Condition()

    # -- Worker -------------------------------------------------------------------------------

    def start(self) -> None:
        """Come up, or fail as scripted."""
        self.incarnation += 1
        if self._starts:
            self._uplink.on_down(self.id, self.incarnation, self._starts.pop(0))
            return
        self.up = True
        hello = Hello(
            protocol=PROTOCOL,
            engine=self._engine,
            engine_version="1",
            model=self.instance.model_name,
            tokenizer_hash="",
            pid=os.getpid(),
            capabilities=self._capabilities,
        )
        self._uplink.on_up(self.id, self.incarnation, hello)

    def submit(self, node: PlanNode) -> bool:
        """Hold it."""
        if not self.up:
            return False
        with self._changed:
            self.nodes[node.request] = node
            self._made[node.request] = 0
            self._changed.notify_all()
        self._report(Accepted(node.id))
        return True

    def cancel(self, node: NodeId) -> None:
        """Stop it, or remember only that it was asked to."""
        for request, held in list(self.nodes.items()):
            if held.id == node:
                self.cancels.append(request)
                if not self.deaf:
                    self.end(request, "cancelled")

    def stop(self, timeout_s: float) -> None:
        """Gone."""
        self.up, self.stopped = False, True

    def kill(self) -> None:
        """Die with what it holds."""
        self.up = False
        self.nodes.clear()
        self._uplink.on_down(self.id, self.incarnation, "killed")

    def describe(self) -> dict[str, Any]:
        """For people."""
        state = "up" if self.up else "down"
        return {"id": self.id, "placement": "held", "engine": self._engine, "state": state}

    # -- a test's hands -----------------------------------------------------------------------

    def wait_for(self, request: str, timeout_s: float = 10.0) -> PlanNode:
        """The node of a request, once it is here."""
        with self._changed:
            if not self._changed.wait_for(lambda: request in self.nodes, timeout_s):
                raise TimeoutError(f"{request!r} did not come to {self.id!r}: {list(self.nodes)}")
            return self.nodes[request]

    def say(self, request: str, ids: Sequence[int]) -> None:
        """Its next tokens."""
        node = self.nodes[request]
        offset = node.offset + self._made[request]
        self._made[request] += len(ids)
        self._report(Tokens(node.id, offset, list(ids)))

    def end(
        self, request: str, reason: str = "length", *, embedding: list[float] | None = None
    ) -> None:
        """It is over."""
        node = self.nodes.pop(request)
        made = self._made[request]
        self._report(Done(node.id, reason, node.n_tokens, made, embedding=embedding))

    def fail(self, request: str, code: str = "engine_failed", message: str = "scripted") -> None:
        """The engine breaks on it."""
        self._report(Failed(self.nodes.pop(request).id, code, message))

    def _report(self, event: EngineEvent) -> None:
        self._uplink.on_events(self.id, self.incarnation, [event])


class HeldFleet:
    """Makes the workers of a `ControlPlane(make=...)`; `options` of each by its instance's id."""

    def __init__(self, **options: dict[str, Any]) -> None:
        self.workers: dict[str, HeldWorker] = {}
        self.options = options

    def __call__(self, instance: ExecutionInstance, uplink: Uplink) -> HeldWorker:
        """`MakeWorker`."""
        identity = instance.instance_id
        worker = HeldWorker(instance, uplink, **self.options.get(identity, {}))
        self.workers[identity] = worker
        return worker

    def __getitem__(self, identity: str) -> HeldWorker:
        return self.workers[identity]
