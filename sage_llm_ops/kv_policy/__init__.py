"""Which KV blocks stay, where they lie, and for how long. Pure: no engine, thread or clock in here."""

from sage_llm_ops.kv_policy.context import (
    EvictionDecision,
    MigrationDecision,
    PolicyContext,
    PoolStats,
    TenantStats,
)
from sage_llm_ops.kv_policy.cost_benefit import Candidate, CostBenefitModel, PrefillCost
from sage_llm_ops.kv_policy.eviction import POLICIES, EvictionPolicy, Rules, eviction_policy
from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.kv_policy.lifetime import Lifetime, LifetimePredictor
from sage_llm_ops.kv_policy.links import Link
from sage_llm_ops.kv_policy.migration import MigrationPolicy

__all__ = [
    "POLICIES",
    "AccessHistory",
    "Candidate",
    "CostBenefitModel",
    "EvictionDecision",
    "EvictionPolicy",
    "Lifetime",
    "LifetimePredictor",
    "Link",
    "MigrationDecision",
    "MigrationPolicy",
    "PolicyContext",
    "PoolStats",
    "PrefillCost",
    "Rules",
    "TenantStats",
    "eviction_policy",
]
