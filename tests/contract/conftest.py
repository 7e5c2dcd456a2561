"""The subjects, one after the other, each started once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sage_llm_ops.testing.vllm_server import vllm_server
from tests.contract.subjects import LENGTH, MODEL, SUBJECTS, Subject


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logs")


@pytest.fixture(scope="module")
def port(logs: Path) -> Iterator[Callable[[], int]]:
    """Of a server that starts when somebody asks for it."""
    with ExitStack() as stack:
        ports: list[int] = []

        def ask() -> int:
            if not ports:
                ports.append(stack.enter_context(vllm_server(logs, MODEL, LENGTH)))
            return ports[0]

        yield ask


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(
    request: pytest.FixtureRequest, logs: Path, port: Callable[[], int]
) -> Iterator[Subject]:
    if any(mark.name == "vllm" for mark in request.node.iter_markers()):
        pytest.importorskip("vllm")
    with request.param(logs, port) as found:
        yield found
