"""Execute: what is placed is handed over once, with what the worker needs."""

from __future__ import annotations

from sage_llm_ops.testing.harness import Harness


def test_a_decision_carries_its_own_request(graph: Harness) -> None:
    """Regression: decisions were once attached to the wrong request."""
    names = [f"r{n}" for n in range(20)]
    for n, name in enumerate(names):
        graph.arrive(name, n_prompt=n + 1, max_tokens=n + 2, priority=n % 5)
    while graph.hands.held:
        (held,) = graph.hands.held.values()
        assert held.node.request == held.job.request.id
        assert held.node.n_tokens == held.job.request.n_prompt
        assert held.node.model == held.job.request.model
        graph.done(held.node.id)
    assert sorted(node.request for node in graph.hands.executed) == sorted(names)


def test_a_continued_attempt_says_where_it_goes_on(graph: Harness) -> None:
    graph.arrive("a", n_prompt=4, max_tokens=8)
    graph.fail(graph.node_of("a"), delivered=3)
    node = graph.hands.executed[-1]
    assert (node.attempt, node.offset, node.n_tokens) == (2, 3, 7)


def test_cancel_goes_to_the_worker_that_holds_it(graph: Harness) -> None:
    graph.arrive("a")
    graph.cancel("a")
    graph.cancel("a")
    assert [held.cancelled for held in graph.hands.held.values()] == [True]
