"""vLLM's KV events, alone and in frames, and what becomes of them in the graph's words."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.kv import KvChange, KvCleared, KvRemoved, KvStored

TIER_OF = {None: 0, "GPU": 0, "CPU": 1, "STORAGE": 2, "DISK": 2, "NVME": 2}
"""vLLM's media."""
FULL = frozenset({None, "full_attention", "mla_attention"})
"""Kinds of cache in which a block holds all that was before it. Models with others beside it (sliding
windows, state spaces) publish a group for each; one is enough to tell what can be reused."""
MAX_BLOCKS = 512
"""In one event of the graph."""

_WORD = (1 << 64) - 1


class BlockStored(msgspec.Struct, tag=True, gc=False):
    """As vLLM sends it, the fields that we read."""

    block_hashes: list[int | bytes]
    parent_block_hash: int | bytes | None
    token_ids: list[int]
    block_size: int
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None


class BlockRemoved(msgspec.Struct, tag=True, gc=False):
    """As vLLM sends it."""

    block_hashes: list[int | bytes]
    medium: str | None = None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, tag=True, gc=False):
    """As vLLM sends it."""


class Batch(msgspec.Struct, array_like=True, gc=False):
    """As vLLM sends it."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


_decode = msgspec.msgpack.Decoder(Batch).decode


def changes(payload: bytes) -> list[KvChange]:
    """What one batch says; `ProtocolError` where it is none."""
    try:
        return [one for event in _decode(payload).events for one in change(event)]
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError) as error:
        start = payload[:16].hex(" ")
        raise ProtocolError(
            f"KV event frame of {len(payload)} bytes does not decode: {error} (starts {start})"
        ) from error


def parts(found: list[KvChange]) -> list[list[KvChange]]:
    """The same in portions of at most `MAX_BLOCKS` blocks (or one change, if that alone has more)."""
    out: list[list[KvChange]] = [[]]
    room = MAX_BLOCKS
    for change in found:
        size = 1 if isinstance(change, KvCleared) else max(1, len(change.hashes) // 8)
        if size > room and out[-1]:
            out.append([])
            room = MAX_BLOCKS
        room -= size
        out[-1].append(change)
    return out


def change(event: Any) -> list[KvChange]:
    """What one event says; decoded here, or vLLM's own object, which has the same names."""
    kind = event.__class__.__name__
    if kind == AllBlocksCleared.__name__:
        return [KvCleared()]
    if event.group_idx:
        return []
    tier = TIER_OF.get(event.medium, -1)  # an unknown one is counted as a misfit further on
    if kind == BlockRemoved.__name__:
        return [KvRemoved(_names(event.block_hashes), tier)]
    if event.kv_cache_spec_kind not in FULL:
        return []
    return _stored(event, tier)


def _stored(event: Any, tier: int) -> list[KvChange]:
    """Cut where a block is mixed with something of its own (an image, a cache salt) that is no
    beginning: no request of ours could ask for it, and what follows it finds no parent."""
    lora = event.lora_name or ""
    names = _names(event.block_hashes)
    tokens = np.asarray(event.token_ids, dtype="<i4").tobytes()
    parent = None if event.parent_block_hash is None else _name(event.parent_block_hash)
    extra = ""
    for number, keys in enumerate(event.extra_keys or ()):
        own = list(keys or ())  # a tuple where vLLM made it, a list where it was sent
        if lora and own[:1] == [lora]:  # it comes first, and a salt may be called like it
            own = own[1:]
        if not own:
            continue
        if number == 0 and parent is None:
            extra = repr(own)
            continue
        names, tokens = names[: 8 * number], tokens[: 4 * event.block_size * number]
        break
    if not names:
        return []
    return [KvStored(names, tokens, event.block_size, parent, tier, lora, extra)]


def _name(named: int | bytes) -> int:
    return int.from_bytes(named[-8:], "big") if isinstance(named, bytes) else named & _WORD


def _names(found: list[int | bytes]) -> bytes:
    return np.array([_name(one) for one in found], dtype="<u8").tobytes()
