"""Blocks of KV cache, the tiers they lie in, and a move between two tiers."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

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


class PrefixCache(msgspec.Struct, frozen=True):
    """A worker's prefix cache, as far as a router has to know it."""

    block_size: int
    """Tokens a block."""
    blocks: int = 0
    """How many it can hold; 0: unknown."""
    reports: bool = False
    """Whether it says what it holds; else that has to be guessed from what it was sent."""
    incarnation: int = 0
    adapters: tuple[str, ...] = ()
    """Of the names the worker serves, those whose KV is their own."""


class KvStored(msgspec.Struct, tag="s", gc=False, omit_defaults=True):
    """Blocks came into a prefix cache, each behind the one before it."""

    hashes: bytes
    """The engine's names of them: uint64, little endian."""
    tokens: bytes
    """Theirs, as int32; empty where the engine does not say, because it said so before."""
    block_size: int
    parent: int | None = None
    """The engine's name of the block before the first; None: it is a beginning."""
    tier: int = 0
    """Position of the tier in `Tier`."""
    lora: str = ""
    extra: str = ""
    """Whatever else the engine mixed into the first block's name."""


class KvRemoved(msgspec.Struct, tag="r", gc=False, omit_defaults=True):
    """Blocks went out of it."""

    hashes: bytes
    tier: int = 0


class KvCleared(msgspec.Struct, tag="c", gc=False):
    """It is empty."""


KvChange = KvStored | KvRemoved | KvCleared
