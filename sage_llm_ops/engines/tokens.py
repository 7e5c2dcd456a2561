"""Token ids as they travel: one int32 buffer, little endian."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

_SWAP = sys.byteorder == "big"


def pack(ids: Iterable[int]) -> bytes:
    """Raises OverflowError for an id beyond 32 bits."""
    buffer = array("i", ids)
    if _SWAP:
        buffer.byteswap()
    return buffer.tobytes()


def unpack(buffer: bytes) -> list[int]:
    """Raises ValueError where the buffer is not a whole number of ids."""
    ids = array("i")
    ids.frombytes(buffer)
    if _SWAP:
        ids.byteswap()
    return ids.tolist()
