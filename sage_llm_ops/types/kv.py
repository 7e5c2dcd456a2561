"""Blocks of KV cache, the tiers they lie in, and a move between two tiers."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

BlockKey = Hashable
"""Identity of a block's content and of everything before it; in practice an int or bytes."""


class Tier(StrEnum):
    """Where a block's bytes lie, fastest first."""

    GPU = "gpu"
    CPU = "cpu"
    NVME = "nvme"


@dataclass(frozen=True, slots=True)
class KVBlockInfo:
    """One resident block."""

    block_id: BlockKey
    tier: Tier
    size_bytes: int
    tenant_id: str = ""
    last_access: float = 0.0


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """Blocks to copy from one tier to another, in the order in which they should go."""

    src_tier: Tier
    dst_tier: Tier
    block_ids: tuple[BlockKey, ...]
