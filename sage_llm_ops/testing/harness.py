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
happens to a node until `first_token`, `done`, `fail`, `down` or `leave` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_llm_ops.operators import OPERATORS, Operator, Plane
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.sage_graph import close, wire
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.testing.account import Account
from sage_llm_ops.testing.manual_hands import ManualHands
from sage_llm_ops.testing.offers import Offers
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.testing.stepped import SteppedSource
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import (
    Arrive,
    Cancel,
    ConfigSet,
    Drain,
    Event,
    FirstToken,
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
from sage_llm_ops.types.requests import Request

MODEL = "m"


class Harness(Account):
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
        self.source = SteppedSource(patience_s)
        self.ledger = Ledger()
        hands, offers = ManualHands(), Offers()
        plane = offers.plane = Plane(self.source, hands, self.ledger, offers)
        graph = check(spec, registry)
        super().__init__(plane, graph.operators(plane), hands, offers, self.source)
        offers.schedule = self.schedule
        self.refused: list[Outcome] = []
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

    # -- what workers say ---------------------------------------------------------------------

    def says_accepted(self, node: NodeId) -> None:
        """The worker holds it."""
        self.step(NodeAccepted(node=node))

    def first_token(self, node: NodeId, cached: int = 0) -> None:
        """The first token reached the stream."""
        self.step(FirstToken(node=node, cached=cached))

    def done(self, node: NodeId, n_tokens: int | None = None, reason: str = "length") -> None:
        """The engine finished it, by default with all the tokens it may make."""
        held = self.hands.held.pop(node)
        left = held.job.request.max_tokens - held.node.offset
        if held.node.kind == "prefill":
            left = 1
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

    def join(
        self,
        worker: str,
        model: str = MODEL,
        role: str = "general",
        models: tuple[str, ...] = (),
    ) -> None:
        """Registered, not up."""
        self.step(WorkerJoin(worker=WorkerId(worker), model=model, role=role, models=models))

    def up(
        self,
        worker: str,
        slots: int = 2,
        model: str = MODEL,
        max_model_len: int = 4096,
        tasks: tuple[str, ...] = ("generate",),
        models: tuple[str, ...] = (),
        kinds: tuple[str, ...] = ("fused",),
    ) -> None:
        """It takes nodes."""
        event = WorkerUp(
            worker=WorkerId(worker),
            model=model,
            slots=slots,
            max_model_len=max_model_len,
            tasks=tasks,
            models=models,
            kinds=kinds,
        )
        self.step(event)

    def add(self, worker: str, slots: int = 2, **fields: Any) -> None:
        """Join and up."""
        self.join(worker, fields.get("model", MODEL), fields.get("models", ()))
        self.up(worker, slots, **fields)

    def down(self, worker: str, delivered: int = 0) -> None:
        """It died, each of its nodes having brought so many tokens."""
        lost = self._lose(worker, delivered)
        self.step(WorkerDown(worker=WorkerId(worker), reason="scripted", lost=lost))

    def leave(self, worker: str, delivered: int = 0) -> None:
        """It is gone for good."""
        lost = self._lose(worker, delivered)
        self.step(WorkerLeave(worker=WorkerId(worker), reason="scripted", lost=lost))

    def replace(self, worker: str, model: str = MODEL, delivered: int = 0) -> None:
        """It is gone, and another one has its id; that one is not up yet."""
        lost = self._lose(worker, delivered)
        self.step(WorkerLeave(worker=WorkerId(worker), reason="replaced", lost=lost, returns=True))
        self.join(worker, model)

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
