"""Arbitrary interleavings through the real graph: the harness checks after every event."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.scheduler_ir import ROUTINGS, STRATEGIES
from sage_llm_ops.testing.harness import MODEL, Harness
from sage_llm_ops.types.events import Load
from sage_llm_ops.types.ids import NodeId, WorkerId

WORKERS = ("w0", "w1", "w2")
MODELS = (MODEL, "other")


class GraphMachine(RuleBasedStateMachine):
    """One graph under everything that can happen to it, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.graph: Harness | None = None
        self.count = 0
        self.state: dict[str, str] = {}
        self.model: dict[str, str] = {}

    @initialize(
        policy=st.sampled_from(sorted(STRATEGIES)),
        routing=st.sampled_from(sorted(ROUTINGS)),
        pd=st.sampled_from(["never", "always", "adaptive"]),
        fuse=st.booleans(),
    )
    def build(self, policy: str, routing: str, pd: str, fuse: bool) -> None:
        spec = serving(
            scheduling_policy=policy,
            routing_strategy=routing,
            pd_policy=pd,
            pd_options={"threshold": 0, "link_latency_ms": 700.0},
        )
        self.graph = Harness(spec, fuse=fuse)
        self.roles = {"w1": "prefilling", "w2": "decoding"} if pd != "never" else {}
        self.kinds = ("fused", "prefill", "decode") if pd != "never" else ("fused",)
        self.graph.add("w0", slots=2)
        self.state["w0"], self.model["w0"] = "up", MODEL

    def teardown(self) -> None:
        if self.graph is None:
            return
        try:
            for worker in WORKERS:
                for model in MODELS:  # so that whoever waits, pinned or not, may run
                    if self.state.get(worker, "gone") != "gone":
                        self.graph.leave(worker)
                    self.graph.add(worker, slots=4, model=model)
                    self.state[worker] = "up"
                    self.graph.finish_all()
            self.graph.advance(1e6)
            self.graph.finish_all()
            self.graph.check_empty()
        finally:
            self.graph.close()

    def node(self, data: st.DataObject) -> NodeId:
        assert self.graph is not None
        return data.draw(st.sampled_from(list(self.graph.hands.held)))

    @property
    def held(self) -> bool:
        return self.graph is not None and bool(self.graph.hands.held)

    @rule(
        n=st.integers(1, 4),
        priority=st.integers(0, 4),
        timeout=st.sampled_from([None, None, 0.0, 1.0, 5.0]),
        model=st.sampled_from([MODEL, MODEL, "other"]),
        pin=st.sampled_from(["", "", "", *WORKERS]),
        greedy=st.booleans(),
        n_prompt=st.integers(1, 6),
        slo_ms=st.sampled_from([None, None, 1.0, 400.0, 20_000.0]),
        tenant=st.sampled_from(["", "a", "b"]),
        budget=st.sampled_from([None, None, None, 1e-9, 1e9]),
    )
    def arrive(
        self,
        n: int,
        priority: int,
        timeout: float | None,
        model: str,
        pin: str,
        greedy: bool,
        n_prompt: int,
        slo_ms: float | None,
        tenant: str,
        budget: float | None,
    ) -> None:
        for _ in range(n):
            self.count += 1
            self.graph.arrive(
                f"r{self.count}",
                priority=priority,
                timeout_s=timeout,
                model=model,
                pin=pin,
                n_prompt=n_prompt,
                slo_ms=slo_ms,
                tenant=tenant,
                cost_budget=budget,
                temperature=0.0 if greedy else 1.0,
            )

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        open_ones = sorted(self.graph.plane.jobs)
        if open_ones:
            assert not self.graph.arrive(data.draw(st.sampled_from(open_ones)))

    @precondition(lambda self: self.count)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.graph.cancel(f"r{data.draw(st.integers(1, self.count))}")

    @precondition(lambda self: self.held)
    @rule(data=st.data(), reason=st.sampled_from(["length", "stop", "cancelled"]))
    def done(self, data: st.DataObject, reason: str) -> None:
        node = self.node(data)
        if reason == "cancelled" and not self.graph.hands.held[node].cancelled:
            reason = "stop"
        self.graph.done(node, n_tokens=None if reason == "length" else 1, reason=reason)

    @precondition(lambda self: self.held)
    @rule(
        data=st.data(),
        reason=st.sampled_from(["engine_failed", "worker_lost", "invalid_request"]),
        delivered=st.integers(0, 3),
    )
    def fail(self, data: st.DataObject, reason: str, delivered: int) -> None:
        node = self.node(data)
        held = self.graph.hands.held[node]
        left = held.job.request.max_tokens - held.node.offset
        self.graph.fail(node, reason, min(delivered, left))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        node = self.node(data)
        self.graph.says_accepted(node)
        self.graph.first_token(node, cached=1)

    @rule(node=st.integers(1, 50))
    def late(self, node: int) -> None:
        """Answers about nodes that nobody holds any more change nothing."""
        if NodeId(node) not in self.graph.hands.held:
            self.graph.first_token(NodeId(node))

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.graph.advance(seconds)

    @rule(worker=st.sampled_from(WORKERS), slots=st.integers(1, 3), model=st.sampled_from(MODELS))
    def bring_up(self, worker: str, slots: int, model: str) -> None:
        """Join where it was gone; come up, possibly twice, with another size or model."""
        if self.state.get(worker, "gone") == "gone":
            self.graph.join(worker, model, self.roles.get(worker, "general"))
        self.graph.up(worker, slots, model=model, kinds=self.kinds)
        self.state[worker] = "up"

    @rule(worker=st.sampled_from(WORKERS), delivered=st.integers(0, 3))
    def take_down(self, worker: str, delivered: int) -> None:
        if self.state.get(worker, "gone") != "gone":
            self.graph.down(worker, delivered)
            self.state[worker] = "down"

    @rule(worker=st.sampled_from(WORKERS), delivered=st.integers(0, 3))
    def leave(self, worker: str, delivered: int) -> None:
        if self.state.get(worker, "gone") != "gone":
            self.graph.leave(worker, delivered)
            self.state[worker] = "gone"

    @rule(
        worker=st.sampled_from(WORKERS),
        model=st.sampled_from(MODELS),
        delivered=st.integers(0, 3),
    )
    def replace(self, worker: str, model: str, delivered: int) -> None:
        if self.state.get(worker, "gone") != "gone":
            self.graph.replace(worker, model, delivered)
            self.state[worker] = "down"

    @rule(worker=st.sampled_from(WORKERS))
    def late_up(self, worker: str) -> None:
        """It said that it is up, and was taken out before that was heard."""
        if self.state.get(worker) == "gone":
            self.graph.up(worker)

    @rule(worker=st.sampled_from(WORKERS))
    def drain(self, worker: str) -> None:
        if worker in self.state:
            self.graph.drain(worker)

    @rule(attempts=st.integers(1, 5), pending=st.sampled_from([1, 3, 100]))
    def configure(self, attempts: int, pending: int) -> None:
        self.graph.configure("recover", "max_attempts", attempts)
        self.graph.configure("admit", "max_pending", pending)

    @rule(
        quota=st.sampled_from([0, 0, 2]),
        rate=st.sampled_from([0.0, 0.0, 0.5]),
        throttle=st.sampled_from([0.0, 0.0, 1.5]),
        feasible=st.booleans(),
        timeout=st.sampled_from([None, 0.0, 30.0]),
    )
    def configure_door(
        self, quota: int, rate: float, throttle: float, feasible: bool, timeout: float | None
    ) -> None:
        """Every limit there is, on and off."""
        for option, value in (
            ("tenant_pending", quota),
            ("tenant_rate", rate),
            ("throttle", throttle),
            ("feasible", feasible),
            ("default_timeout_s", timeout),
        ):
            self.graph.configure("admit", option, value)

    @rule(
        worker=st.sampled_from(WORKERS),
        step=st.tuples(*[st.sampled_from([0, 1, 700, -3, 2**62])] * 4),
        ms=st.sampled_from([0.0, 1e-9, 5.0, 1e9, float("inf"), float("nan")]),
    )
    def says_how_fast(self, worker: str, step: tuple[int, int, int, int], ms: float) -> None:
        """Steps as they are, and as they cannot be."""
        if worker in self.state:
            said = ((*step, ms),) * 20
            event = Load(worker=WorkerId(worker), running=0, waiting=0, kv_usage=0.0, steps=said)
            self.graph.step(event)
            assert np.isfinite(self.graph.plane.fleet.traits.ms).all()

    @rule(failures=st.integers(0, 3), open_s=st.sampled_from([0.1, 2.0]))
    def configure_breakers(self, failures: int, open_s: float) -> None:
        """Off, at the first failure, or later."""
        self.graph.configure("observe", "breaker_failures", failures)
        self.graph.configure("observe", "breaker_open_s", open_s)

    @rule(floor=st.integers(0, 3), share=st.sampled_from([0.0, 0.5]), keep=st.sampled_from([0, 5]))
    def configure_recovery(self, floor: int, share: float, keep: int) -> None:
        """Few retries; short quarantines or none."""
        self.graph.configure("recover", "retry_floor", floor)
        self.graph.configure("recover", "retry_share", share)
        self.graph.configure("recover", "quarantine_s", float(keep))

    @precondition(lambda self: self.held)
    @rule(worker=st.sampled_from(WORKERS))
    def break_down(self, worker: str) -> None:
        """Everything it holds fails, and what it is given meanwhile."""
        for _ in range(6):
            for node in self.graph.on(worker):
                self.graph.fail(node)


def test_any_interleaving() -> None:
    run_state_machine_as_test(
        GraphMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
