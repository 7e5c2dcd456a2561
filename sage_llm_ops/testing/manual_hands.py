"""Hands that keep what the graph hands out, until a test says what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.types.events import Job, Outcome
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.plans import PlanNode


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
