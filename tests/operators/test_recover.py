"""Recover: another attempt where it ends the same way, else one typed end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sage_llm_ops.scheduler_ir.quarantine import MOST, Quarantine
from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.testing.requests import make_request


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
    assert graph.arrive("b", n_prompt=5)
    graph.done(graph.node_of("b"))


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
    that moment were the end of the request, and later a hundred and four were."""
    graph.arrive("a")
    for _ in range(5):
        graph.fail(graph.node_of("a"), "worker_lost")
        assert graph.plane.jobs["a"].node is None, "it is not given back to who refused it just now"
        assert graph.plane.fleet.describe()[0]["state"] == "refusing"
        graph.advance(0.3)
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
        graph.advance(0.3)
    assert graph.codes("a") == ["worker_lost"]
    graph.check_empty()


def kill(graph: Harness, identity: str, **fields: Any) -> None:
    """A request under which two workers die."""
    assert graph.arrive(identity, **fields)
    for _ in range(2):
        graph.down("w0")
        graph.up("w0", slots=1)
    assert graph.codes(identity) == ["quarantined"]


def test_whoever_asks_what_workers_died_of_is_refused_for_a_while(graph: Harness) -> None:
    kill(graph, "first")
    assert not graph.arrive("again")
    (end,) = graph.refused
    assert end.code == "quarantined"
    assert "'first'" in end.message and "quarantine_s" in end.message
    for fields in ({"n_prompt": 5}, {"temperature": 1.0}, {"max_tokens": 9}):
        assert graph.arrive(f"other {fields}", **fields), "another prompt, another sampling"
    graph.advance(60.0)
    assert graph.arrive("later")
    graph.finish_all()
    graph.check_empty()


def test_nothing_is_kept_where_it_is_turned_off_or_nobody_knows_the_prompt(graph: Harness) -> None:
    unknown = make_request("u", max_tokens=8)
    unknown.tokens = b""
    assert graph.arrive_request(unknown)
    for _ in range(2):
        graph.down("w0")
        graph.up("w0", slots=1)
    assert graph.codes("u") == ["quarantined"]
    graph.configure("recover", "quarantine_s", 0.0)
    kill(graph, "off")
    assert graph.plane.quarantine.held == {}
    assert graph.source.pending() == []


def test_the_quarantine_is_bounded() -> None:
    quarantine = Quarantine()
    names = [quarantine.add(make_request(f"r{n}", n_prompt=n + 1)) for n in range(MOST + 1)]
    assert [name for name in names if name[1]] == [(names[-1][0], names[0][0])]
    assert len(quarantine.held) == MOST


def test_over_the_budget_the_failure_is_final_and_says_so(graph: Harness) -> None:
    graph.configure("observe", "breaker_failures", 0)
    graph.configure("recover", "retry_share", 0.0)
    graph.configure("recover", "retry_floor", 2)
    graph.arrive("a")
    for _ in range(3):
        graph.fail(graph.node_of("a"))
    assert graph.codes("a") == ["engine_failed"]
    for word in ("scripted", "2 retries within 10 s", "retry_share=0", "retry_floor=2"):
        assert word in graph.end_of("a").message
    graph.arrive("b")
    graph.fail(graph.node_of("b"))
    assert graph.codes("b") == ["engine_failed"], "it is one budget for all"
    graph.advance(10.0)
    graph.arrive("c")
    graph.fail(graph.node_of("c"))
    graph.done(graph.node_of("c"))
    assert graph.codes("c") == [""]


def test_deaths_and_free_refusals_cost_no_budget(graph: Harness) -> None:
    graph.configure("recover", "retry_share", 0.0)
    graph.configure("recover", "retry_floor", 0)
    graph.arrive("a")
    graph.down("w0")
    graph.up("w0", slots=1)
    for _ in range(20):
        graph.fail(graph.node_of("a"), "worker_lost")
        graph.advance(0.3)
    graph.done(graph.node_of("a"))
    assert graph.codes("a") == [""]
