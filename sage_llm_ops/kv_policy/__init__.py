"""Which KV blocks stay, where they lie, and for how long. Pure: no engine, thread or clock in here."""

from sage_llm_ops.kv_policy.context import (
    EvictionDecision,
    MigrationDecision,
    PolicyContext,
    PoolStats,
    TenantStats,
)
from sage_llm_ops.kv_policy.eviction import POLICIES, EvictionPolicy, Rules, eviction_policy

__all__ = [
    "POLICIES",
    "EvictionDecision",
    "EvictionPolicy",
    "MigrationDecision",
    "PolicyContext",
    "PoolStats",
    "Rules",
    "TenantStats",
    "eviction_policy",
]
