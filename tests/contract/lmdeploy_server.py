"""LMDeploy's own api_server with the tiny model, on the CPU device of our tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_llm_ops.engines.child import child_environment
from sage_llm_ops.testing.servers import free_port, server
from sage_llm_ops.testing.tiny_model import tiny_model
from tests.lmdeploy_env import lmdeploy_python

MODULE = "sage_llm_ops.testing.lmdeploy_cpu.server"


@contextmanager
def lmdeploy_server(logs: Path, model: str, length: int) -> Iterator[int]:
    """Its port; it may not listen yet."""
    port, python = free_port(), lmdeploy_python()
    command = [python, "-m", MODULE, str(tiny_model()), model, str(port), str(length)]
    env = child_environment(dict(os.environ), {}, elsewhere=True)
    with server(command, env, logs / "lmdeploy_serve.log"):
        yield port
