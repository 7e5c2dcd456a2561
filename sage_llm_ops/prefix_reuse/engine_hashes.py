"""Block hashes as vLLM computes them, at any seed.

Our own lookups never need them. They translate at the intake of KV events, where an engine names a
block by its hash and does not say its tokens, and they tell whether two workers name blocks alike.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sage_llm_ops.prefix_reuse.hashing import Tokens, as_tokens
from sage_llm_ops.types.errors import CapabilityError, ConfigError, UnknownName

DEFAULT_SEED = "vllm-none-hash"
"""vLLM's, where PYTHONHASHSEED is not set and the algorithm is a cryptographic one. With the others it
then draws a seed for every process, and nobody else can name its blocks."""


def _sha256(value: Any) -> bytes:
    return hashlib.sha256(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)).digest()


def _sha256_cbor(value: Any) -> bytes:
    return hashlib.sha256(_cbor(value)).digest()


def _xxhash(value: Any) -> bytes:
    return _xxh3(pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL))


def _xxhash_cbor(value: Any) -> bytes:
    return _xxh3(_cbor(value))


def _cbor(value: Any) -> bytes:
    try:
        import cbor2
    except ImportError:
        raise CapabilityError("hashes over CBOR need cbor2: pip install cbor2") from None
    encoded: bytes = cbor2.dumps(value, canonical=True)
    return encoded


def _xxh3(data: bytes) -> bytes:
    try:
        import xxhash
    except ImportError:
        raise CapabilityError("hashes of kind xxhash need xxhash: pip install xxhash") from None
    digest: bytes = xxhash.xxh3_128_digest(data)
    return digest


ALGORITHMS: dict[str, Callable[[Any], bytes]] = {
    "sha256": _sha256,
    "sha256_cbor": _sha256_cbor,
    "xxhash": _xxhash,
    "xxhash_cbor": _xxhash_cbor,
}


class EngineHashes:
    """One worker's way of naming blocks."""

    def __init__(self, algorithm: str = "sha256", seed: str = DEFAULT_SEED) -> None:
        if algorithm not in ALGORITHMS:
            raise UnknownName("block hash algorithm", algorithm, ALGORITHMS)
        self._hash = ALGORITHMS[algorithm]
        self.first = self._hash(seed)
        """What the first block is chained to."""

    def chain(
        self,
        tokens: Tokens,
        block_size: int,
        *,
        parent: bytes | None = None,
        extra: Sequence[tuple[Any, ...] | None] = (),
    ) -> list[bytes]:
        """Hashes of the whole blocks, behind `parent` or at the beginning. `extra`: what vLLM mixes
        into each of them (`generate_block_hash_extra_keys`), None where nothing."""
        if block_size < 1:
            raise ConfigError(f"block_size={block_size} must be at least 1")
        made: list[bytes] = []
        before = parent or self.first
        ids: list[int] = np.frombuffer(as_tokens(tokens), dtype="<i4").tolist()
        for number, at in enumerate(range(0, len(ids) - block_size + 1, block_size)):
            more = extra[number] if number < len(extra) else None
            before = self._hash((before, tuple(ids[at : at + block_size]), more))
            made.append(before)
        return made


def as_number(named: int | bytes) -> int:
    """The name of a block as 64 bits, which is what events carry by default."""
    if isinstance(named, bytes):
        return int.from_bytes(named[-8:], "big")
    return named & ((1 << 64) - 1)
