"""Execute: the hand towards the workers. One operator over a live table; the graph never changes."""

from __future__ import annotations

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import NodeCancel, NodeReady


class Execute(Operator):
    """Hands over and forgets: the answer enters by the source."""

    name = "execute"
    shape = "sink"
    takes = {NodeReady: "ready", NodeCancel: "cancel"}

    def ready(self, event: NodeReady) -> Emitted:
        self.plane.hands.execute(event.node, event.job)

    def cancel(self, event: NodeCancel) -> Emitted:
        self.plane.hands.cancel(event.node, event.worker)
