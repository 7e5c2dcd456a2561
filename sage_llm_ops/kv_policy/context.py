"""What a policy may be told when it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.types.kv import BlockKey, MigrationPlan


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One tier's pool, in blocks."""

    capacity: int
    used: int

    @property
    def free(self) -> int:
        return self.capacity - self.used


@dataclass(frozen=True, slots=True)
class TenantStats:
    """A tenant's claim on the pool: shares are in proportion to weights."""

    weight: float = 1.0
    used: int = 0
    """Blocks, for people and metrics. A policy counts for itself what it tracks."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """A snapshot taken by the caller. Everything may be left out: less is then known.

    `pool_stats` is by tier name; `tenant_stats` replaces the weights the policy was made with.
    """

    now: float = 0.0
    pool_stats: Mapping[str, PoolStats] = field(default_factory=dict)
    tenant_stats: Mapping[str, TenantStats] = field(default_factory=dict)
    access_history: AccessHistory | None = None


@dataclass(frozen=True, slots=True)
class EvictionDecision:
    """Blocks that have left the policy and whose memory the caller now frees, in this order."""

    victims: tuple[BlockKey, ...]
    reason: str
    """For the ledger: the policy's rule, and why there are fewer victims than were asked for."""


@dataclass(frozen=True, slots=True)
class MigrationDecision:
    """A move and what it is expected to be worth; no plan where nothing is worth its cost."""

    plan: MigrationPlan | None
    net_benefit: float
    """Milliseconds, expected, after cost."""
    reason: str = ""
