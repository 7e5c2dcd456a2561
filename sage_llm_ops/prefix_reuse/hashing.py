"""Token buffers as they come in, and keys of growing prompts."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from sage_llm_ops.prefix_reuse.compiled import functions
from sage_llm_ops.prefix_reuse.keys import MASK, ROOT, chain, digest
from sage_llm_ops.types.errors import ConfigError, InvalidRequest
from sage_llm_ops.types.prefix import Salt

NO_SALT = Salt()
Tokens = bytes | bytearray | memoryview | Sequence[int]
"""Token ids, or a buffer of them as little-endian int32: what travels in `Request.tokens`."""


def as_tokens(tokens: Any, limit: int | None = None) -> bytes:
    """One int32 buffer, or `InvalidRequest` that names what is wrong."""
    if isinstance(tokens, bytes):
        buffer = tokens
    elif isinstance(tokens, bytearray | memoryview):
        buffer = bytes(tokens)
    else:
        buffer = _packed(tokens)
    if len(buffer) % 4:
        raise InvalidRequest(
            f"a token buffer of {len(buffer)} bytes is not one of int32: give 4 bytes a token"
        )
    if not buffer:
        raise InvalidRequest("the prompt has no tokens; give at least one")
    if limit is not None and len(buffer) > 4 * limit:
        raise InvalidRequest(
            f"the prompt has {len(buffer) // 4} tokens and the model takes {limit}: shorten it"
        )
    return buffer


def _packed(tokens: Any) -> bytes:
    try:
        array = np.asarray(tokens)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"token ids: {error}") from None
    if not array.size:
        return b""
    if array.ndim != 1 or array.dtype.kind not in "iu":  # numpy would cut 1.5 and read "7"
        found = type(tokens[0]).__name__ if isinstance(tokens, list | tuple) else array.dtype
        raise InvalidRequest(f"token ids must be one list of integers; got {found}")
    if array.min() < 0 or array.max() >= 1 << 31:
        wrong = next(int(t) for t in array if not 0 <= t < 1 << 31)
        raise InvalidRequest(f"token id {wrong} is not between 0 and 2147483647")
    return array.astype("<i4").tobytes()


class PrefixKeys:
    """The block keys of a prompt that grows: what was hashed once is not hashed again.

        keys = PrefixKeys(16, Salt(model="m"))
        keys.extend(system_prompt), keys.extend(first_turn)

    `hash_bits` below 64 is for tests that want collisions.
    """

    def __init__(self, block_size: int, salt: Salt = NO_SALT, *, hash_bits: int = 64) -> None:
        if block_size < 1:
            raise ConfigError(f"block_size={block_size} must be at least 1")
        self.block_size = block_size
        self._bits = (1 << hash_bits) - 1
        self._last = chain(ROOT & self._bits, digest(salt)) & self._bits
        self._rest = b""
        self.keys: list[int] = []
        """One for each whole block so far."""

    def extend(self, tokens: Tokens) -> list[int]:
        """More tokens; the keys of the blocks that they completed."""
        data = self._rest + as_tokens(tokens)
        width = 4 * self.block_size
        count = len(data) // width
        self._rest = data[count * width :]
        made: list[int] = np.frombuffer(
            chained(self._last, data, count, width, self._bits), dtype="<u8"
        ).tolist()
        if made:
            self._last = made[-1]
            self.keys += made
        return made


def chained(key: int, data: bytes, count: int, width: int, mask: int = MASK) -> bytes:
    """The keys of `count` blocks of `width` bytes behind one whose key this is, as uint64."""
    fast = functions()
    if fast is not None and mask == MASK:
        out = (ctypes.c_uint64 * count)()
        fast.px_chain(key, data, count, width, out)
        return bytes(out)
    made = bytearray()
    for at in range(0, count * width, width):
        key = chain(key, data[at : at + width]) & mask
        made += key.to_bytes(8, "little")
    return bytes(made)


def block_keys(
    tokens: Tokens, block_size: int, salt: Salt = NO_SALT, *, hash_bits: int = 64
) -> list[int]:
    """Keys of a prompt's whole blocks."""
    return PrefixKeys(block_size, salt, hash_bits=hash_bits).extend(tokens)
