"""Recover: another attempt where it ends the same way, else one typed end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_llm_ops.testing.harness import Harness


def test_another_worker_is_tried_first(make: Callable[..., Harness]) -> None:
    graph = make()
    graph.add("w0")
    graph.add("w1")
    graph.arrive("a")
    first = graph.worker_of("a")
    graph.fail(graph.node_of("a"))
    assert graph.worker_of("a") != first
    graph.done(graph.node_of("a"))
    assert graph.end_of("a").job.attempt == 2


def test_a_retry_keeps_its_place_in_the_order(graph: Harness) -> None:
    graph.arrive("a")
    graph.arrive("b")
    graph.fail(graph.node_of("a"))
    assert graph.node_of("a")
    assert graph.waiting() == ["b"]


def test_greedy_goes_on_exactly_where_it_stopped(graph: Harness) -> None:
    graph.arrive("a", max_tokens=8, temperature=0.0)
    graph.fail(graph.node_of("a"), delivered=3)
    graph.fail(graph.node_of("a"), delivered=2)
    node = graph.hands.executed[-1]
    assert node.offset == 5
    graph.done(node.id)
    assert graph.end_of("a").job.delivered == 8


def test_sampled_output_cannot_go_on_once_it_was_seen(graph: Harness) -> None:
    graph.arrive("a", temperature=1.0)
    graph.fail(graph.node_of("a"))
    graph.fail(graph.node_of("a"), delivered=1)
    assert graph.codes("a") == ["engine_failed"]
    assert "1 tokens were delivered" in graph.end_of("a").message


def test_all_tokens_delivered_is_completion(graph: Harness) -> None:
    graph.arrive("a", max_tokens=4)
    graph.down("w0", delivered=4)
    end = graph.end_of("a")
    assert (end.code, end.finish_reason) == ("", "length")


def test_attempts_are_bounded(graph: Harness) -> None:
    graph.arrive("a")
    for _ in range(4):
        graph.fail(graph.node_of("a"))
    assert graph.codes("a") == ["engine_failed"]
    assert "attempt 4 was the last" in graph.end_of("a").message
    graph.check_empty()


@pytest.mark.parametrize("reason", ["invalid_request", "capability"])
def test_what_another_worker_would_refuse_too_is_final(graph: Harness, reason: str) -> None:
    graph.arrive("a")
    graph.fail(graph.node_of("a"), reason)
    assert graph.codes("a") == [reason]


def test_quarantine_after_two_deaths(graph: Harness) -> None:
    graph.arrive("a")
    for _ in range(2):
        graph.down("w0")
        graph.up("w0", slots=1)
    assert graph.codes("a") == ["quarantined"]
    assert "max_deaths=2" in graph.end_of("a").message
    assert graph.arrive("b")
    graph.done(graph.node_of("b"))
    graph.check_empty()


def test_leaving_in_order_is_no_death(make: Callable[..., Harness]) -> None:
    graph = make()
    for name in ("w0", "w1", "w2"):
        graph.add(name, slots=1)
    graph.arrive("a")
    for _ in range(2):
        graph.leave(graph.worker_of("a"))
    graph.done(graph.node_of("a"))
    assert graph.codes("a") == [""]


def test_max_attempts_is_live(graph: Harness) -> None:
    graph.configure("recover", "max_attempts", 1)
    graph.arrive("a")
    graph.fail(graph.node_of("a"))
    assert graph.codes("a") == ["engine_failed"]


def test_a_worker_that_died_unheard_costs_no_attempt(graph: Harness) -> None:
    """Regression: the only worker refuses for a moment before its death is known; four retries in
    that moment were the end of the request."""
    graph.arrive("a")
    for _ in range(50):
        graph.fail(graph.node_of("a"), "worker_lost")
    graph.down("w0")
    graph.up("w0", slots=1)
    graph.done(graph.node_of("a"))
    assert graph.codes("a") == [""]


def test_a_worker_that_refuses_for_ever_ends_it(graph: Harness) -> None:
    graph.arrive("a")
    for _ in range(200):
        if graph.codes("a"):
            break
        graph.fail(graph.node_of("a"), "worker_lost")
    assert graph.codes("a") == ["worker_lost"]
    graph.check_empty()
