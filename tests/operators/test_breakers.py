"""Circuit breakers in the graph: who fails gets nothing, is probed, and comes back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_llm_ops.operators.base import check_live
from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.errors import ConfigError


@pytest.fixture
def two(make: Callable[..., Harness]) -> Harness:
    """`bad` and `good`; three failures open, for a second."""
    graph = make()
    graph.configure("observe", "breaker_failures", 3)
    graph.configure("observe", "breaker_open_s", 1.0)
    for name in ("bad", "good"):
        graph.add(name, slots=4)
    return graph


def breaker(graph: Harness, worker: str = "bad") -> str:
    (row,) = (row for row in graph.plane.fleet.describe() if row["worker"] == worker)
    return str(row["breaker"])


def told(graph: Harness) -> list[str]:
    return [entry.code for entry in graph.ledger.entries() if entry.kind == "breaker"]


def serve(graph: Harness) -> None:
    """Every node on `bad` fails, every other one is done, until nothing runs."""
    while graph.hands.held:
        node, held = next(iter(graph.hands.held.items()))
        if held.node.worker == "bad":
            graph.fail(node)
        else:
            graph.done(node)


def test_traffic_drains_to_the_good_one_and_the_bad_one_is_probed_and_comes_back(
    two: Harness,
) -> None:
    names = [f"r{n}" for n in range(40)]
    for name in names:
        two.arrive(name)
        serve(two)
    assert all(two.codes(name) == [""] for name in names)
    failed = [node for node in two.hands.executed if node.worker == "bad"]
    assert len(failed) == 3, "after that it got nothing"
    assert breaker(two) == "open"
    two.advance(1.3)
    assert breaker(two) == "half_open"
    for n in range(8):
        two.arrive(f"late{n}")
    assert len(two.on("bad")) == 1, "one probe at a time, whatever its slots"
    two.done(two.on("bad")[0])
    assert breaker(two) == "closed"
    assert told(two) == ["opened", "half_open", "closed"]
    two.finish_all()
    for n in range(8):
        two.arrive(f"more{n}")
    assert len(two.on("bad")) == 4
    two.finish_all()
    two.check_empty()


def test_all_open_means_waiting_and_the_probe_wakes(graph: Harness) -> None:
    for n in range(2):
        graph.arrive(f"r{n}")
        while not graph.codes(f"r{n}") and graph.hands.held:
            graph.fail(graph.node_of(f"r{n}"))
    assert breaker(graph, "w0") == "open"
    assert graph.arrive("hurried", timeout_s=1.0)
    assert graph.arrive("patient")
    assert graph.waiting() == ["r1", "hurried", "patient"]
    graph.advance(2.0)
    assert graph.codes("hurried") == ["deadline_expired"]
    graph.advance(5.0)
    assert graph.waiting() == ["patient"], "the oldest is the probe"
    graph.fail(graph.node_of("r1"))
    assert breaker(graph, "w0") == "open"
    assert graph.advance(7.0) == 0, "twice as long"
    graph.advance(7.0)
    graph.done(graph.node_of("r1"))
    assert breaker(graph, "w0") == "closed"
    graph.finish_all()
    assert graph.codes("patient") == [""]
    graph.check_empty()


def test_a_probe_that_says_nothing_makes_room_for_the_next(two: Harness) -> None:
    two.leave("good")
    two.configure("recover", "max_attempts", 1)
    for name in ("a", "b", "c"):
        two.arrive(name)
    serve(two)
    two.arrive("wrong")
    two.arrive("left")
    two.arrive("next")
    two.advance(1.3)
    two.fail(two.node_of("wrong"), "invalid_request")
    two.cancel("left")
    two.acknowledge(two.node_of("left"))
    assert breaker(two) == "half_open"
    two.done(two.node_of("next"))
    assert breaker(two) == "closed"


def broken(graph: Harness) -> None:
    """`bad` alone, and half open."""
    graph.leave("good")
    graph.configure("recover", "max_attempts", 1)
    for name in ("a", "b", "c"):
        graph.arrive(name)
    serve(graph)
    graph.advance(1.3)
    assert breaker(graph) == "half_open"


@pytest.mark.parametrize("told_off", [False, True])
def test_a_probe_that_hangs_has_failed(two: Harness, told_off: bool) -> None:
    broken(two)
    two.advance(20.0)
    two.arrive("hangs", timeout_s=5.0 if told_off else None)
    two.arrive("waits")
    two.advance(29.0)
    assert breaker(two) == "half_open"
    two.advance(31.0)
    assert told(two)[-3:] == ["half_open", "opened", "half_open"]
    assert len(two.on("bad")) == 2, "the next one probes it"
    two.done(two.node_of("waits"))
    assert breaker(two) == "closed"
    if told_off:
        assert two.codes("hangs") == ["deadline_expired"]


def test_a_probe_whose_time_is_up_in_silence_has_failed(two: Harness) -> None:
    broken(two)
    two.arrive("late", timeout_s=2.0)
    node = two.node_of("late")
    two.advance(2.1)
    two.acknowledge(node)
    assert breaker(two) == "open"


def test_a_probe_that_speaks_has_all_the_time_it_needs(two: Harness) -> None:
    broken(two)
    two.arrive("long")
    two.first_token(two.node_of("long"))
    two.advance(300.0)
    assert breaker(two) == "half_open"
    two.done(two.node_of("long"))
    assert breaker(two) == "closed"
    assert two.source.pending() == []


def test_what_it_was_given_before_says_nothing_new(two: Harness) -> None:
    two.leave("good")
    two.configure("recover", "max_attempts", 1)
    names = ["a", "b", "c", "d"]
    for name in names:
        two.arrive(name)
    old = two.node_of("d")
    for name in names[:3]:
        two.fail(two.node_of(name))
    two.arrive("probe")
    two.advance(1.3)
    two.done(old)
    assert breaker(two) == "half_open"
    two.done(two.node_of("probe"))
    assert breaker(two) == "closed"


@pytest.mark.parametrize("how", ["restart", "crash", "leave", "off"])
def test_another_chance(two: Harness, how: str) -> None:
    for name in ("a", "b", "c"):
        two.arrive(name)
        serve(two)
    while breaker(two) == "closed":
        two.arrive(f"more{two.now}")
        two.now += 0.001
        serve(two)
    if how == "restart":
        two.up("bad", slots=4)
    elif how == "crash":
        two.down("bad")
    elif how == "leave":
        two.leave("bad")
    else:
        two.configure("observe", "breaker_failures", 0)
    assert breaker(two) == "closed"
    assert told(two)[-1] == "closed"
    assert two.source.pending() == []


def test_the_callers_mistakes_are_not_the_workers(two: Harness) -> None:
    for n in range(30):
        two.arrive(f"r{n}")
        two.fail(two.node_of(f"r{n}"), "invalid_request")
    assert told(two) == []


def test_options_that_contradict_each_other_are_refused(two: Harness) -> None:
    observe = two.operators["observe"]
    with pytest.raises(ConfigError, match=r"breaker_failures=30 must be 0 .* breaker_window=20"):
        check_live(observe, "breaker_failures", 30)
    with pytest.raises(ConfigError, match=r"breaker_open_s=100\.0 must be above 0"):
        check_live(observe, "breaker_open_s", 100.0)
