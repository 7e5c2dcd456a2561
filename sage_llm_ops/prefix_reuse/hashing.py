"""Token buffers as they come in, and keys of growing prompts."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from sage_llm_ops.prefix_reuse.compiled import functions
from sage_llm_ops.prefix_reuse.keys import MASK, ROOT, chain, digest
from sage_llm_ops.types.errors import ConfigError, InvalidRequest
from sage_llm_ops.types.prefix import Salt

NO_SALT = Salt()
Tokens = bytes | bytearray | memoryview | Sequence[int]
"""Token ids, or a buffer of them as little-endian int32: what travels in `Request.tokens`."""


_BYTES = "Bbc"
"""Formats of a view of bytes; one of anything else is a list of numbers."""


def as_tokens(tokens: Any, limit: int | None = None) -> bytes:
    """One int32 buffer, or `InvalidRequest` that names what is wrong."""
    if isinstance(tokens, bytes):
        buffer = tokens
    elif isinstance(tokens, bytearray) or (
        isinstance(tokens, memoryview) and tokens.format in _BYTES
    ):
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
    listed = isinstance(tokens, list | tuple)
    if listed and (odd := _no_integer(tokens)):
        raise InvalidRequest(f"token ids must be one list of integers; got {odd} in it")
    if not listed and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise InvalidRequest(f"token ids must be one list of integers; got {array.dtype}")
    if array.min() < 0 or array.max() >= 1 << 31:
        wrong = next(t for t in tokens if not 0 <= t < 1 << 31)
        raise InvalidRequest(f"token id {wrong} is not between 0 and 2147483647")
    return array.astype("<i4").tobytes()


def as_keys(keys: bytes | Iterable[int]) -> bytes:
    """Block keys as one buffer of uint64, or `InvalidRequest`."""
    if isinstance(keys, bytes):
        if len(keys) % 8:
            raise InvalidRequest(
                f"a key buffer of {len(keys)} bytes is not one of uint64: give 8 bytes a key"
            )
        return keys
    listed = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    if odd := _no_integer(listed):
        raise InvalidRequest(f"block keys must be integers; got {odd} among them")
    try:
        return np.array(listed, dtype="<u8").tobytes()
    except OverflowError:
        wrong = next(key for key in listed if not 0 <= key <= MASK)
        raise InvalidRequest(f"block key {wrong} is not between 0 and {MASK}") from None


def _no_integer(listed: Sequence[Any]) -> str:
    """The type of the first that is none, of which numpy would make one: it cuts 1.5 and takes True."""
    kinds = dict.fromkeys(map(type, listed))
    return next((k.__name__ for k in kinds if k is bool or not issubclass(k, Integral)), "")


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
