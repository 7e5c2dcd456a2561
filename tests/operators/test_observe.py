"""Observe: the views are right before anyone decides."""

from __future__ import annotations

from collections.abc import Callable

from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.events import Load, WorkerJoin, WorkerUp
from sage_llm_ops.types.ids import WorkerId


def test_first_token_is_stamped_once_and_keeps_the_cache_hit(graph: Harness) -> None:
    graph.arrive("a")
    graph.advance(1.0)
    graph.first_token(graph.node_of("a"), cached=3)
    graph.advance(1.0)
    graph.first_token(graph.node_of("a"), cached=9)
    job = graph.plane.jobs["a"]
    assert (job.first_token, job.cached) == (1.0, 3)


def test_accepted_is_noted_on_the_running_attempt_and_forgotten_with_it(graph: Harness) -> None:
    graph.arrive("a")
    graph.advance(1.0)
    graph.says_accepted(graph.node_of("a"))
    assert graph.plane.jobs["a"].accepted == 1.0
    graph.fail(graph.node_of("a"), "engine_failed")
    assert graph.plane.jobs["a"].attempt == 2
    assert graph.plane.jobs["a"].accepted is None


def test_load_informs_only(graph: Harness) -> None:
    digest = graph.ledger.digest
    graph.step(Load(worker=WorkerId("w0"), running=1, waiting=0, kv_usage=0.5))
    assert graph.plane.fleet.describe()[0]["kv_usage"] == 0.5
    assert graph.ledger.digest == digest


def test_a_worker_that_died_has_no_kv_usage(graph: Harness) -> None:
    graph.step(Load(worker=WorkerId("w0"), running=1, waiting=0, kv_usage=0.5))
    graph.down("w0")
    assert graph.plane.fleet.describe()[0]["kv_usage"] is None


def test_a_late_answer_is_dropped(graph: Harness) -> None:
    graph.arrive("a", max_tokens=4)
    node = graph.node_of("a")
    graph.cancel("a")
    graph.advance(11.0)
    assert graph.codes("a") == ["cancelled"]
    graph.acknowledge(node)
    assert graph.codes("a") == ["cancelled"]
    graph.check_empty()


def test_where_a_worker_stands_is_what_it_says_unless_the_configuration_does(
    graph: Harness,
) -> None:
    for name, place in (("told", ""), ("set", "rack1/h7")):
        worker = WorkerId(name)
        graph.step(WorkerJoin(worker=worker, model="m", place=place))
        graph.step(WorkerUp(worker=worker, model="m", slots=1, max_model_len=99, place="h1/numa0"))
    fleet = graph.plane.fleet
    assert fleet.traits.place[fleet.rows[WorkerId("told")]] == ("h1", "numa0")
    assert fleet.traits.place[fleet.rows[WorkerId("set")]] == ("rack1", "h7")


def test_who_hangs_up_makes_no_worker_look_quick(make: Callable[..., Harness]) -> None:
    graph = make(routing_strategy="least_response_time")
    graph.add("w0")
    graph.arrive("waits")
    graph.advance(2.0)
    graph.done(graph.node_of("waits"))
    graph.arrive("leaves")
    graph.cancel("leaves")
    graph.acknowledge(graph.node_of("leaves"))
    assert graph.plane.fleet.traits.response_ms[0] == 2000.0
