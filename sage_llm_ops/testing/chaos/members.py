"""Who is broken: small workers of the tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sage_llm_ops.testing.chaos.served import SERVED
from sage_llm_ops.testing.lmdeploy_cpu import CPU_LMDEPLOY, lmdeploy_python
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance

LENGTH = 1024
"""Tokens of the longest prompt with its answer."""
ENGINES = {"vllm": "vllm", "lmdeploy": CPU_LMDEPLOY}


def all_there_is() -> tuple[list[str], str]:
    """A fleet of every engine on this machine, each worker a word, and why one is missing."""
    try:
        lmdeploy_python()
    except ConfigError as error:
        return ["vllm", "vllm", SERVED], str(error)
    return ["vllm", "vllm", "lmdeploy", SERVED], ""


def checked(words: Sequence[str]) -> list[str]:
    """Raises `ConfigError` where no fleet can be made of these."""
    known = (*ENGINES, SERVED)
    for word in words:
        if word not in known:
            raise UnknownName("worker", word, known)
    if words.count(SERVED) > 1 or not set(words) & set(ENGINES):
        raise ConfigError(
            f"workers {','.join(words)}: give one or more of {', '.join(ENGINES)}, and {SERVED} once "
            "or not at all"
        )
    if "lmdeploy" in words:
        lmdeploy_python()
    return list(words)


def members(words: Sequence[str]) -> list[ExecutionInstance]:
    """The worker processes among these."""
    engines = [word for word in words if word in ENGINES]
    return [_member(engine, f"{engine}-{n}") for n, engine in enumerate(engines)]


def _member(engine: str, identity: str) -> ExecutionInstance:
    options: dict[str, Any]
    if engine == "lmdeploy":
        options = {"python": lmdeploy_python(), "session_len": LENGTH, "max_batch_size": 16}
    else:
        options = {"kv_cache_memory_bytes": 64 << 20, "max_model_len": LENGTH, "max_num_seqs": 16}
    return ExecutionInstance(
        identity, model_name=str(tiny_model()), engine=ENGINES[engine], options=options
    )
