"""What is known of a prefix: that somebody has it, and how much of a prompt it covers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sage_llm_ops.types.kv import Tier


class Salt(NamedTuple):
    """What must be equal, beside the tokens, for KV to be reusable."""

    model: str = ""
    lora: str = ""
    tenant: str = ""
    """Only where the engine keeps tenants apart (vLLM: `cache_salt`)."""
    extra: str = ""
    """Whatever else the engine mixes in."""


@dataclass(frozen=True, slots=True)
class PrefixEntry:
    """A prefix that somebody was said to have."""

    entry_id: int
    token_hash: int
    """Key of its last block: stands for everything before it, too."""
    token_length: int
    """Tokens in whole blocks; what is behind the last whole one is not reusable."""
    kv_block_ids: tuple[int, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """The longest prefix of a prompt that one holder has."""

    matched_length: int
    """Tokens, in whole blocks."""
    confidence: float
    """1.0 where tokens were compared and the holder said that it has them; less by the part that is
    only expected of it, or, where only hashes were given, by the chance that they collide."""
    remaining_tokens: int
    holder: str = ""
    by_tier: Mapping[Tier, int] = field(default_factory=dict)
    """How far one gets with this tier and those faster than it."""
    entry: PrefixEntry | None = None
    """The prefix as it was inserted, where this one was."""
