"""Instances come and go under ids of their own: a newcomer inherits a row and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.events import Load, NodeDone, NodeFailed, Timer, WorkerDown, WorkerLeave
from sage_llm_ops.types.ids import NodeId, WorkerId

OLD = WorkerId("old")


def row(graph: Harness, worker: str) -> dict[str, object]:
    (found,) = (row for row in graph.plane.fleet.describe() if row["worker"] == worker)
    return found


@pytest.fixture
def changed(make: Callable[..., Harness]) -> Harness:
    """`new` has the row of `old` and its request, `keep` one of its own."""
    graph = make()
    for worker, request in (("old", "a"), ("keep", "b")):
        graph.add(worker, slots=1)
        graph.arrive(request)
    graph.leave("old")
    graph.add("new", slots=1)
    assert graph.plane.fleet.ids == ["new", "keep"]
    return graph


LATE = {
    "done": NodeDone(node=NodeId(1), finish_reason="length", n_tokens=8),
    "failed": NodeFailed(node=NodeId(1), reason="engine_failed", message="late"),
    "lost": NodeFailed(node=NodeId(1), reason="worker_lost", message="late"),
    "down": WorkerDown(worker=OLD, reason="late", lost={1: 3}),
    "left again": WorkerLeave(worker=OLD, reason="late", lost={1: 3}),
    "replaced": WorkerLeave(worker=OLD, reason="late", lost={}, returns=True),
    "load": Load(worker=OLD, running=1, waiting=0, kv_usage=0.9, steps=((1, 2, 3, 4, 5.0),)),
    "refusing": Timer(kind="refusing", key=OLD),
}


@pytest.mark.parametrize("name", LATE)
def test_what_is_heard_late_of_the_one_before(changed: Harness, name: str) -> None:
    before = row(changed, "new")
    assert before["running"] == 1
    changed.step(LATE[name])
    assert row(changed, "new") == before
    changed.finish_all()
    changed.check_empty()


def test_late_words_of_drains_and_starts(changed: Harness) -> None:
    changed.drain("old")
    changed.up("old", slots=7, model="other")
    assert row(changed, "new")["state"] == "up" and row(changed, "new")["slots"] == 1
    assert changed.plane.fleet.models() == ["m"]
    assert "old" not in changed.plane.fleet.rows


def test_a_breaker_goes_with_its_worker(make: Callable[..., Harness]) -> None:
    graph = make()
    graph.configure("observe", "breaker_failures", 1)
    graph.add("old", slots=1)
    graph.arrive("a")
    graph.fail(graph.node_of("a"))
    assert row(graph, "old")["breaker"] == "open"
    graph.leave("old")
    graph.add("new", slots=1)
    assert row(graph, "new")["breaker"] == "closed"
    assert not [kind for kind, _ in graph.source.pending() if kind in ("breaker", "probe")]


def test_who_left_is_not_distrusted(make: Callable[..., Harness]) -> None:
    """It left between the reservation and the hand-over, so nothing was lost with it; then its node
    fails."""
    graph = make()
    graph.configure("observe", "breaker_failures", 1)
    graph.add("old", slots=1)
    graph.arrive("a")
    graph.step(WorkerLeave(worker=OLD, reason="scripted", lost={}))
    graph.add("new", slots=1)
    assert graph.plane.fleet.ids == ["old", "new"], "its node still holds the row"
    graph.fail(graph.node_of("a"))
    assert not [entry for entry in graph.ledger.entries() if entry.kind == "breaker"]
    graph.add("newer", slots=1)
    assert graph.plane.fleet.ids == ["newer", "new"]
    graph.finish_all()
    graph.check_empty()


def test_the_ledger_names_the_rows_of_each_attempt(changed: Harness) -> None:
    changed.finish_all()
    told = changed.ledger.about("a")
    fleets = [entry.workers for entry in told if entry.kind == "fleet"]
    placed = [entry.worker for entry in told if entry.kind == "place"]
    assert fleets == [["old"], ["new", "keep"]]
    assert placed == ["old", "new"]


def test_many_come_and_go(make: Callable[..., Harness]) -> None:
    graph = make()
    graph.configure("observe", "breaker_failures", 1)
    for n in range(300):
        graph.add(f"w{n}", slots=1)
        graph.arrive(f"r{n}")
        if n % 7 == 0:
            graph.fail(graph.node_of(f"r{n}"))
        if n >= 4:
            graph.leave(f"w{n - 4}")
        graph.finish_all()
    plane = graph.plane
    assert len(plane.fleet.ids) == 5
    assert len(plane.classes) == 4, "those who are here"
    assert len(plane.metrics.workers) <= 6
    assert plane.metrics.total().completed == 300
    graph.check_empty()
