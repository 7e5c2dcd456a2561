from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.testing.harness import Harness


@pytest.fixture
def make() -> Iterator[Callable[..., Harness]]:
    """Graphs of the serving pipeline, closed at the end."""
    made: list[Harness] = []

    def build(registry: Any = None, **settings: Any) -> Harness:
        more = {} if registry is None else {"registry": registry}
        made.append(Harness(serving(**settings), **more))
        return made[-1]

    yield build
    for graph in made:
        graph.close()


@pytest.fixture
def graph(make: Callable[..., Harness]) -> Harness:
    """One worker, one slot."""
    found = make()
    found.add("w0", slots=1)
    return found
