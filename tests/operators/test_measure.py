"""Measure: every end is counted, before it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.measure import Measure
from sage_llm_ops.testing.harness import Harness


def test_ends_are_counted_by_kind_and_worker(graph: Harness) -> None:
    graph.arrive("done")
    graph.done(graph.node_of("done"), n_tokens=5, reason="stop")
    graph.arrive("cancelled")
    graph.cancel("cancelled")
    graph.acknowledge(graph.node_of("cancelled"))
    graph.arrive("failed")
    graph.fail(graph.node_of("failed"), "invalid_request")
    row = graph.plane.metrics.table()["w0"]
    assert (row["completed"], row["cancelled"], row["failed"]) == (1, 1, 1)
    assert row["output_tokens"] == 5


def test_slo_compliance_is_not_always_one(graph: Harness) -> None:
    """Regression: a missed objective was once counted as met."""
    for name, wait in (("fast", 0.05), ("slow", 0.2), ("dead", 0.0)):
        graph.arrive(name, slo_ms=100.0)
        graph.advance(wait)
        if name == "dead":
            graph.fail(graph.node_of(name), "invalid_request")
        else:
            graph.done(graph.node_of(name))
    metrics = graph.plane.metrics
    assert (metrics.slo_counted, metrics.slo_violations) == (3, 2)


def test_turned_off_it_measures_nothing_and_says_so(make: Callable[..., Harness]) -> None:
    graph = make(monitoring=False)
    graph.add("w0")
    graph.arrive("a")
    graph.done(graph.node_of("a"))
    assert graph.codes("a") == [""]
    assert graph.plane.metrics.table()["total"]["latency_p50_ms"] is None


class Fails(Measure):
    def outcome(self, event: Any) -> Any:
        raise RuntimeError("boom")


def test_a_missing_number_costs_no_answer(make: Callable[..., Harness]) -> None:
    graph = make(registry={**OPERATORS, "measure": Fails})
    graph.add("w0")
    graph.arrive("a")
    graph.broken = 1
    graph.done(graph.node_of("a"))
    assert graph.codes("a") == [""]


@pytest.mark.parametrize("name", ["ttft_p50_ms", "tpot_p95_ms", "queue_p99_ms", "latency_p50_ms"])
def test_unmeasured_is_none(graph: Harness, name: str) -> None:
    assert graph.plane.metrics.table()["total"][name] is None
