"""Route: a place, reserved at once; or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.route import Route
from sage_llm_ops.testing.harness import Harness


@pytest.mark.parametrize("routing", ["load_balanced", "round_robin"])
def test_a_burst_is_spread(make: Callable[..., Harness], routing: str) -> None:
    """Regression: a whole burst once landed on one instance."""
    graph = make(routing_strategy=routing)
    for n in range(8):
        graph.join(f"w{n}")
    for n in range(160):
        graph.arrive(f"r{n}")
    for n in range(8):
        graph.up(f"w{n}", slots=20)
    load = Counter(held.node.worker for held in graph.hands.held.values())
    assert set(load.values()) == {20}
    graph.finish_all()
    graph.check_empty()


def test_the_named_strategy_is_the_one_that_runs(make: Callable[..., Harness]) -> None:
    """Regression: `routing_strategy` was once accepted and ignored."""
    placed = {}
    for routing in ("load_balanced", "round_robin"):
        graph = make(routing_strategy=routing)
        graph.add("big", slots=30)
        graph.add("small", slots=10)
        for n in range(20):
            graph.arrive(f"r{n}")
        placed[routing] = Counter(node.worker for node in graph.hands.executed)
    assert placed["load_balanced"] == {"big": 15, "small": 5}
    assert placed["round_robin"] == {"big": 10, "small": 10}


def test_a_pinned_request_goes_there_or_waits(make: Callable[..., Harness]) -> None:
    graph = make()
    graph.add("w0", slots=1)
    graph.add("w1", slots=1)
    graph.arrive("a", pin="w1")
    graph.arrive("b", pin="w1")
    graph.arrive("c")
    assert graph.worker_of("a") == "w1"
    assert graph.worker_of("c") == "w0"
    assert graph.waiting() == ["b"]


def test_why_is_written_down(graph: Harness) -> None:
    graph.add("w1", slots=3)
    graph.arrive("a")
    graph.arrive("b")
    fleet, entry = graph.ledger.about("b")
    assert fleet.workers == ["w0", "w1"]
    assert entry.policy == "load_balanced@1"
    assert entry.worker == fleet.workers[entry.rows[entry.costs.index(min(entry.costs))]]
    assert entry.unit == "share of slots in use"


class Breaks(Route):
    """Reserves, and then fails."""

    def offer(self, event: Any) -> Any:
        placed = super().offer(event)
        if event.job.request.id == "bad":
            raise RuntimeError("boom")
        return placed


def test_what_a_broken_route_has_reserved_is_given_back(make: Callable[..., Harness]) -> None:
    graph = make(registry={**OPERATORS, "route": Breaks})
    graph.add("w0", slots=1)
    graph.broken = 1
    graph.arrive("bad")
    assert graph.codes("bad") == ["integrity"]
    assert "'route'" in graph.end_of("bad").message
    graph.arrive("good")
    assert graph.worker_of("good") == "w0"
    graph.finish_all()
    graph.check_empty()
