"""Workers that hold what they are given until a test says how it goes on.

fleet = HeldFleet()
plane = ControlPlane(spec, make=fleet)
node = fleet["w0"].wait_for("request-1")
fleet["w0"].say("request-1", [1, 2, 3])
fleet["w0"].end("request-1")
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, final

from sage_llm_ops.engines.base import Uplink
from sage_llm_ops.testing.manual_worker import CAPABLE, ManualWorker
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Done


@final
class HeldWorker(ManualWorker):
    """Spoken to by request. It accepts at once, and stops at once when asked to, unless `deaf`.

    `starts` says why its first starts fail, one entry each; then it comes up.
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
        super().__init__(instance.instance_id, uplink, capabilities=capabilities)
        self.instance = instance
        self.engine = engine
        self.deaf = False
        self.stopped = False
        self.cancels: list[str] = []
        """Requests it was asked to stop."""
        self._starts = list(starts)
        self._changed = threading.Condition()

    @property
    def nodes(self) -> dict[str, PlanNode]:
        """What it holds, by request."""
        return {node.request: node for node in list(self.held.values())}

    def start(self) -> None:
        """Come up, or fail as scripted."""
        if self._starts:
            self.incarnation += 1
            self._uplink.on_down(self.id, self.incarnation, self._starts.pop(0))
            return
        super().start()

    def submit(self, node: PlanNode) -> bool:
        """Hold it, and say so."""
        with self._changed:
            taken = super().submit(node)
            self._changed.notify_all()
        if taken:
            self.accept(node)
        return taken

    def cancel(self, node: NodeId) -> None:
        """Stop it, or remember only that it was asked to."""
        super().cancel(node)
        held = self.held.get(node)
        if held is not None:
            self.cancels.append(held.request)
            if not self.deaf:
                self.end(held.request, "cancelled")

    def stop(self, timeout_s: float) -> None:
        """Gone."""
        super().stop(timeout_s)
        self.stopped = True

    # -- a test's hands -----------------------------------------------------------------------

    def wait_for(self, request: str, timeout_s: float = 10.0) -> PlanNode:
        """The node of a request, once it is here."""
        with self._changed:
            if not self._changed.wait_for(lambda: request in self.nodes, timeout_s):
                raise TimeoutError(f"{request!r} did not come to {self.id!r}: {list(self.nodes)}")
            return self.nodes[request]

    def say(self, request: str, ids: Sequence[int]) -> None:
        """Its next tokens."""
        self.tokens(self.nodes[request], *ids)

    def end(
        self, request: str, reason: str = "length", *, embedding: list[float] | None = None
    ) -> None:
        """It is over."""
        node = self.nodes[request]
        if embedding is None:
            self.done(node, reason=reason)
            return
        del self.held[node.id]
        self.report(Done(node.id, reason, node.n_tokens, 0, embedding=embedding))

    def break_on(self, request: str, code: str = "engine_failed") -> None:
        """The engine fails on it."""
        self.fail(self.nodes[request], code)


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
