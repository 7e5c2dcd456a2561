"""Deliver: one end, and nothing is left behind."""

from __future__ import annotations

from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.events import Outcome


def test_nothing_grows_over_many_requests(graph: Harness) -> None:
    """Completed, cancelled while queued, cancelled while running, expired, failed; a thousand."""
    graph.configure("observe", "breaker_failures", 0)  # every other answer is a failure
    for n in range(200):
        names = [f"{kind}{n}" for kind in ("done", "queued", "running", "late", "failed")]
        for name in names:
            graph.arrive(name, timeout_s=1.0 if name.startswith("late") else 1000.0)
        graph.cancel(f"queued{n}")
        graph.done(graph.node_of(f"done{n}"))
        graph.cancel(f"running{n}")
        graph.acknowledge(graph.node_of(f"running{n}"))
        graph.fail(graph.node_of(f"late{n}"))
        graph.advance(1.0)
        graph.acknowledge(graph.node_of(f"late{n}"))
        graph.fail(graph.node_of(f"failed{n}"), "invalid_request")
        graph.check_empty()
    assert len(graph.source) < 600
    assert len(graph.source.pending()) == 0
    sizes = {
        name: len(value)
        for name, value in vars(graph.plane.fleet).items()
        if name != "state" and isinstance(value, dict)
    }
    assert max(sizes.values()) <= 4, sizes
    assert sum(len(queue) for queue in graph.schedule.strategy._lane.queues.values()) < 600


def test_a_second_end_is_counted_as_a_defect_and_not_delivered(graph: Harness) -> None:
    graph.arrive("a")
    graph.done(graph.node_of("a"))
    end = graph.end_of("a")
    again = Outcome(end.seq, end.now, end.job, code="engine_failed")
    graph.operators["deliver"].outcome(again)  # type: ignore[attr-defined]
    assert graph.codes("a") == [""]
    assert graph.plane.broken == 1
