"""Schedule: who is next, and what becomes of those who wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.events import Broken


def order(graph: Harness) -> list[str]:
    graph.finish_all()
    return [node.request for node in graph.hands.executed]


def test_fifo_is_the_order_of_arrival(graph: Harness) -> None:
    for name, priority in (("a", 4), ("b", 0), ("c", 2)):
        graph.arrive(name, priority=priority)
    assert order(graph) == ["a", "b", "c"]


def test_priority_changes_the_order_of_execution(make: Callable[..., Harness]) -> None:
    """Regression: priority was once without effect, because the batch was cut before ordering."""
    graph = make(scheduling_policy="priority")
    graph.add("w0", slots=1)
    names = [f"r{n}" for n in range(50)]
    for n, name in enumerate(names):
        graph.arrive(name, priority=4 - n % 5)
    first, *rest = order(graph)
    assert first == "r0"  # it met an idle worker
    assert rest == sorted(names[1:], key=lambda name: (4 - int(name[1:]) % 5, int(name[1:])))


def test_every_request_gets_a_decision(make: Callable[..., Harness]) -> None:
    """Regression: requests without a decision were once dropped."""
    graph = make()
    graph.join("w0")
    for n in range(200):
        graph.arrive(f"r{n}")
    graph.up("w0", slots=3)
    assert len(order(graph)) == 200
    graph.check_empty()


def test_one_model_without_room_does_not_hold_up_another(graph: Harness) -> None:
    graph.add("other", slots=1, model="o")
    graph.arrive("a")
    graph.arrive("waits")
    graph.arrive("b", model="o")
    assert graph.worker_of("b") == "other"


@pytest.mark.parametrize("policy", ["slo_aware", "cost_optimized", "fair", "hybrid", "adaptive"])
def test_only_what_completed_teaches_how_long_requests_take(
    make: Callable[..., Harness], policy: str
) -> None:
    """Regression: callers that hang up, and requests that failed or expired on their second attempt,
    once counted as quick or slow answers, and every estimate followed them."""
    graph = make(scheduling_policy=policy)
    graph.add("w0", slots=1)
    outlook = graph.plane.outlook
    for n in range(5):
        graph.arrive(f"leaves{n}")
        graph.cancel(f"leaves{n}")
        graph.acknowledge(graph.node_of(f"leaves{n}"), 1)
    graph.arrive("fails")
    graph.fail(graph.node_of("fails"), "invalid_request")
    graph.arrive("again", timeout_s=50.0)
    graph.down("w0")
    graph.advance(50.0)
    assert graph.codes("again") == ["deadline_expired"]
    assert outlook.stretch == 1.0
    graph.up("w0", slots=1)
    graph.arrive("completes")
    graph.advance(100.0)
    graph.done(graph.node_of("completes"))
    assert outlook.stretch > 1.0


@pytest.mark.parametrize(("act", "code"), [("cancel", "cancelled"), ("wait", "deadline_expired")])
def test_a_waiting_request_is_ended_here(graph: Harness, act: str, code: str) -> None:
    graph.arrive("blocks")
    graph.arrive("a", timeout_s=3.0)
    if act == "cancel":
        graph.cancel("a")
    else:
        graph.advance(3.0)
    assert graph.codes("a") == [code]
    graph.done(graph.node_of("blocks"))
    graph.check_empty()


def test_all_workers_gone_then_back(graph: Harness) -> None:
    graph.arrive("a")
    graph.arrive("b")
    graph.down("w0")
    assert graph.waiting() == ["a", "b"]
    graph.up("w0", slots=2)
    assert graph.waiting() == []
    graph.finish_all()
    graph.check_empty()


def test_the_last_instance_leaves_with_running_and_waiting(graph: Harness) -> None:
    """The running one fails over to nobody: it must not wait for ever either."""
    graph.arrive("runs")
    graph.arrive("waits")
    graph.leave("w0")
    assert graph.codes("runs") == graph.codes("waits") == ["no_instance"]
    graph.check_empty()


def test_a_failure_that_is_heard_after_the_last_instance_left(graph: Harness) -> None:
    graph.arrive("a")
    held = dict(graph.hands.held)
    graph.hands.held.clear()
    graph._post(_leave("w0"))  # the route of `a` was not among the lost: it was being handed over
    graph.hands.held.update(held)
    graph.fail(next(iter(held)), "worker_lost")
    assert graph.codes("a") == ["no_instance"]
    graph.check_empty()


def _leave(worker: str) -> Any:
    from sage_llm_ops.types.events import WorkerLeave
    from sage_llm_ops.types.ids import WorkerId

    return WorkerLeave(worker=WorkerId(worker), reason="scripted")


def test_a_worker_that_comes_up_without_the_task(make: Callable[..., Harness]) -> None:
    """Nobody knew before; whoever waited for it is told."""
    graph = make()
    graph.join("w0")
    assert graph.arrive("a", task="embed")
    graph.up("w0", tasks=("generate",))
    assert graph.codes("a") == ["no_instance"]


def test_a_worker_that_left_stays_gone(graph: Harness) -> None:
    graph.leave("w0")
    graph.up("w0")
    assert not graph.arrive("a")
    graph.join("w0")
    graph.up("w0", slots=1)
    assert graph.arrive("b")
    assert graph.worker_of("b") == "w0"


def test_a_drained_worker_gets_nothing_even_after_a_restart(graph: Harness) -> None:
    graph.arrive("a")
    graph.drain("w0")
    graph.arrive("b")
    graph.done(graph.node_of("a"))
    assert graph.waiting() == ["b"]
    graph.up("w0", slots=1)
    assert graph.waiting() == ["b"]
    graph.add("w1", slots=1)
    assert graph.worker_of("b") == "w1"


class Stumbling(Schedule):
    """Fails on one request, and again when it is told of that."""

    def push(self, event: Any) -> Any:
        if event.job.request.id == "bad":
            raise RuntimeError("boom")
        return super().push(event)

    def broken(self, event: Broken) -> Any:
        raise RuntimeError("and again")


def test_a_schedule_that_cannot_handle_a_breakage_does_not_spin(
    make: Callable[..., Harness],
) -> None:
    graph = make(registry={**OPERATORS, "schedule": Stumbling})
    graph.add("w0")
    graph.broken = 2
    graph.arrive("bad")
    assert graph.codes("bad") == ["integrity"]
    assert graph.arrive("good")
