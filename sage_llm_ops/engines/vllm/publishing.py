"""How a vLLM worker tells what becomes of its prefix cache."""

from __future__ import annotations

import logging
import shutil
import tempfile
from typing import Any, NamedTuple

from sage_llm_ops.engines.vllm.options import VllmOptions

log = logging.getLogger("sage_llm_ops.engines")

_SUN_PATH = 107
"""Longest path that fits the kernel's socket address."""


class Publishing(NamedTuple):
    """Addresses in a folder of their own that nobody else can enter."""

    directory: str

    @property
    def live(self) -> str:
        return f"ipc://{self.directory}/kv"

    @property
    def replay(self) -> str:
        return f"ipc://{self.directory}/kv-replay"

    def arguments(self) -> dict[str, Any]:
        """For vLLM's EngineArgs."""
        return events_arguments(
            publisher="zmq", endpoint=self.live, replay_endpoint=self.replay, topic="kv"
        )

    def end(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.directory, ignore_errors=True)


def wanted(options: VllmOptions) -> bool:
    """Not where vLLM's own arguments arrange it otherwise, or where there would be several engines
    (data parallel ranks publish on their own, and over TCP only)."""
    caches = options.kv_events and options.enable_prefix_caching is not False
    return (
        caches and options.data_parallel_size == 1 and "kv_events_config" not in options.engine_args
    )


def events_arguments(**said: Any) -> dict[str, Any]:
    """For vLLM's EngineArgs."""
    from vllm.config import KVEventsConfig

    return {"kv_events_config": KVEventsConfig(enable_kv_cache_events=True, **said)}


def publishing() -> Publishing | None:
    """None where no socket fits."""
    made = Publishing(tempfile.mkdtemp(prefix="kv-"))
    if len(made.replay.removeprefix("ipc://").encode()) > _SUN_PATH:
        log.warning("no KV events: %s is too long for a socket; set TMPDIR", made.directory)
        made.end()
        return None
    return made
