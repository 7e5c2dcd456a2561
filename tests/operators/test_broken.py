"""An operator that raises ends its request by name; the graph, and everyone else, goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sage_llm_ops.operators import OPERATORS, Operator
from sage_llm_ops.testing.harness import Harness

HANDLERS = [
    ("advance", "placed"),
    ("recover", "attempt_failed"),
    ("schedule", "push"),
    ("prefix_lookup", "offer"),
    ("pd_split", "offer"),
    ("route", "offer"),
]


def breaking(name: str, handler: str) -> type[Operator]:
    kind = OPERATORS[name]

    def fails(self: Any, event: Any) -> Any:
        if event.job.request.id == "bad":
            raise RuntimeError("boom")
        return getattr(kind, handler)(self, event)

    return type("Breaking", (kind,), {handler: fails})


@pytest.mark.parametrize(("name", "handler"), HANDLERS)
def test_broken_at_every_operator(make: Callable[..., Harness], name: str, handler: str) -> None:
    graph = make(registry={**OPERATORS, name: breaking(name, handler)})
    graph.add("w0", slots=1)
    if name == "recover":
        graph.arrive("bad")
        graph.broken = 1
        graph.fail(graph.node_of("bad"))
    else:
        graph.broken = 1
        graph.arrive("bad")
    assert graph.codes("bad") == ["integrity"]
    assert f"'{name}'" in graph.end_of("bad").message
    assert graph.arrive("after")
    graph.done(graph.node_of("after"))
    assert graph.codes("after") == [""]
    graph.check_empty()
