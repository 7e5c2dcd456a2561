"""Advance: owner of what runs; cancels and deadlines of running nodes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_llm_ops.testing.harness import Harness


def test_done_is_the_end(graph: Harness) -> None:
    graph.arrive("a", max_tokens=8)
    graph.done(graph.node_of("a"), reason="stop", n_tokens=3)
    end = graph.end_of("a")
    assert (end.code, end.finish_reason, end.job.delivered) == ("", "stop", 3)
    graph.check_empty()


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        (lambda graph: graph.cancel("a"), "cancelled"),
        (lambda graph: graph.advance(5.0), "deadline_expired"),
    ],
)
def test_a_running_request_is_stopped_by_its_worker(
    graph: Harness, stop: Callable[[Harness], None], code: str
) -> None:
    graph.arrive("a", timeout_s=5.0)
    node = graph.node_of("a")
    stop(graph)
    assert graph.hands.held[node].cancelled
    assert graph.codes("a") == []
    graph.acknowledge(node)
    assert graph.codes("a") == [code]
    graph.check_empty()


def test_the_first_reason_stays(graph: Harness) -> None:
    graph.arrive("a", timeout_s=5.0)
    graph.cancel("a")
    graph.advance(5.0)
    graph.acknowledge(graph.node_of("a"))
    assert graph.codes("a") == ["cancelled"]


def test_a_cancel_that_comes_too_late_loses(graph: Harness) -> None:
    graph.arrive("a")
    graph.cancel("a")
    graph.done(graph.node_of("a"))
    assert graph.codes("a") == [""]
    graph.cancel("a")
    graph.check_empty()


def test_a_worker_that_does_not_acknowledge_keeps_its_place_but_not_the_caller(
    graph: Harness,
) -> None:
    """And when it answers after all, whoever waits for that place gets it at once."""
    graph.arrive("a")
    node = graph.node_of("a")
    graph.arrive("b")
    graph.cancel("a")
    graph.advance(10.0)
    assert graph.codes("a") == ["cancelled"]
    assert graph.waiting() == ["b"]
    graph.acknowledge(node)
    assert graph.waiting() == []


def test_worker_down_while_a_cancel_is_pending(graph: Harness) -> None:
    graph.arrive("a")
    graph.cancel("a")
    graph.down("w0")
    assert graph.codes("a") == ["cancelled"]
    graph.check_empty()


def test_nodes_of_a_dead_worker_fail_over_in_node_order(make: Callable[..., Harness]) -> None:
    graph = make()
    graph.add("w0", slots=3)
    for name in ("a", "b", "c"):
        graph.arrive(name)
    graph.hands.held = dict(reversed(graph.hands.held.items()))  # however their ends were noticed
    graph.add("w1", slots=3)
    graph.down("w0")
    assert [node.request for node in graph.hands.executed[-3:]] == ["a", "b", "c"]
    assert {graph.worker_of(name) for name in ("a", "b", "c")} == {"w1"}
