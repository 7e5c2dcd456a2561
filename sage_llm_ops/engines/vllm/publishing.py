"""Where a vLLM worker publishes what becomes of its prefix cache."""

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
        from vllm.config import KVEventsConfig

        config = KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=self.live,
            replay_endpoint=self.replay,
            topic="kv",
        )
        return {"kv_events_config": config}

    def end(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.directory, ignore_errors=True)


def publishing(options: VllmOptions) -> Publishing | None:
    """None where it is not wanted, where vLLM's own arguments arrange it otherwise, or where there
    would be several engines (data parallel ranks publish on their own, and over TCP only)."""
    wanted = options.kv_events and options.enable_prefix_caching is not False
    if not wanted or options.data_parallel_size > 1 or "kv_events_config" in options.engine_args:
        return None
    made = Publishing(tempfile.mkdtemp(prefix="kv-"))
    if len(made.replay.removeprefix("ipc://").encode()) > _SUN_PATH:
        log.warning("no KV events: %s is too long for a socket; set TMPDIR", made.directory)
        made.end()
        return None
    return made
