"""Our gateway over two simulated engines that answer at once, as a process of its own.

python -m benchmarks.gateway_under_test PORT bytes|hf
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.base import Uplink
from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.service.gateway.server import serve
from sage_llm_ops.types.instances import ExecutionInstance

MODEL = "m"
INSTANT = {"timing": "instant", "prefix_cache": False}


def make(instance: ExecutionInstance, uplink: Uplink) -> InlineWorker:
    """The tokenizer named in the instance's options is the plane's, none of the engine's."""
    return InlineWorker(instance, INSTANT, uplink)


def plane(tokenizer: str, directory: str) -> ControlPlane:
    """Two engines, the ledger in a file as in production."""
    options = {"tokenizer_kind": tokenizer}
    if tokenizer == "hf":
        from sage_llm_ops.testing.tiny_model import tiny_model

        options["tokenizer"] = str(tiny_model())
    fleet = tuple(
        ExecutionInstance(name, model_name=MODEL, engine="sim", options=dict(options))
        for name in ("w0", "w1")
    )
    ledger = str(Path(directory) / "ledger.jsonl")
    return ControlPlane(serving(instances=fleet, ledger=ledger), make=make)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="sage-llm-ops-bench-") as work:
        serve(
            plane(sys.argv[2], work),
            GatewayConfig(port=int(sys.argv[1])),
            listening=lambda url: None,
            ready=lambda url: print("ready", flush=True),
        )
