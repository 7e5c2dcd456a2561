"""What a policy may be told when it is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.types.kv import BlockKey, MigrationPlan


@dataclass(frozen=True, slots=True)
class PoolStats:
    """One tier's pool, in blocks."""

    capacity: int
    used: int


@dataclass(frozen=True, slots=True)
class TenantStats:
    """A tenant's claim on the pool: shares are in proportion to weights."""

    weight: float = 1.0
    used: int = 0
    """Blocks, for people and metrics. A policy counts for itself what it tracks."""


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """A snapshot taken by the caller. Everything may be left out: less is then known.

    `tenant_stats` replaces the weights the policy was made with. `pool_stats`, by tier name, and
    `access_history` change no choice: they are told in its reason.
    """

    now: float = 0.0
    pool_stats: Mapping[str, PoolStats] = field(default_factory=dict)
    tenant_stats: Mapping[str, TenantStats] = field(default_factory=dict)
    access_history: AccessHistory | None = None

    def told(self, victims: Sequence[BlockKey]) -> str:
        """How full the pools were, and how long the victims had not been used."""
        words = [f"{tier} {pool.used} of {pool.capacity}" for tier, pool in self.pool_stats.items()]
        if self.access_history is not None:
            uses = [use for key in victims if (use := self.access_history.get(key)) is not None]
            if uses:
                latest = max(use.at for use in uses)
                words.append(f"unused for {self.now - latest:.1f} s or longer")
        return "".join(f"; {word}" for word in words)


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
