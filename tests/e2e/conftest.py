"""Real vLLM workers in child processes, and what they must not leave behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

psutil = pytest.importorskip("psutil")


def leftovers() -> set[str]:
    """Children of ours, shared memory, and private ipc directories."""
    children = {f"process {c.pid}" for c in psutil.Process().children(recursive=True)}
    shm = {f"shm {name}" for name in os.listdir("/dev/shm")}
    sockets = {
        f"ipc {conn.laddr}" for conn in psutil.Process().net_connections("unix") if conn.laddr
    }
    return children | shm | sockets


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """What a test starts, it also ends."""
    before = leftovers()
    yield
    assert leftovers() - before == set()


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The tiny model's directory."""
    pytest.importorskip("vllm")
    from sage_llm_ops.testing.tiny_model import tiny_model

    return tiny_model()
