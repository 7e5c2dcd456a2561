"""Eviction. `POLICIES` holds the names that exist, plug-ins among them; any other is refused."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.kv_policy.eviction.adaptive import Adaptive
from sage_llm_ops.kv_policy.eviction.arc import ARC
from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.fifo import FIFO
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.lfu import LFU
from sage_llm_ops.kv_policy.eviction.lirs import LIRS
from sage_llm_ops.kv_policy.eviction.lru import LRU
from sage_llm_ops.kv_policy.eviction.s3fifo import S3FIFO
from sage_llm_ops.kv_policy.eviction.sieve import SIEVE
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.registry import Registry

POLICIES: Registry[EvictionPolicy] = Registry(
    "eviction policy",
    "evictions",
    EvictionPolicy,
    {policy.name: policy for policy in (FIFO, LRU, LFU, ARC, S3FIFO, SIEVE, LIRS, Adaptive)},
)


def eviction_policy(
    name: str, capacity: int, rules: Rules | None = None, **options: Any
) -> EvictionPolicy:
    """A policy by name, as configuration files and the command line give it."""
    policy = POLICIES.resolve(name)
    try:
        return policy(capacity, rules, **options)
    except TypeError as error:
        raise ConfigError(f"eviction policy {name!r} with options {options}: {error}") from error


__all__ = [
    "ARC",
    "FIFO",
    "LFU",
    "LIRS",
    "LRU",
    "POLICIES",
    "S3FIFO",
    "SIEVE",
    "Adaptive",
    "EvictionPolicy",
    "Rules",
    "eviction_policy",
]
