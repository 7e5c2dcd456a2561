"""Our block keys: 64 bits that stand for a block's tokens and everything before them.

    key = fold(parent's key, the block's tokens as little-endian int32)

folded sixteen bytes at a time with one 64 x 64 -> 128 bit product each. Only speed and spread matter:
wherever a key finds something, the tokens are compared. `native/prefix.c` has the same in C.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from struct import iter_unpack

from sage_llm_ops.types.prefix import Salt

MASK = (1 << 64) - 1
C0, C1, C2 = 0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3
ROOT = C2
"""Key of what all salts begin with."""


def chain(parent: int, tokens: bytes) -> int:
    """The key of a block behind `parent`."""
    width = len(tokens)
    if width % 16:
        tokens += bytes(16 - width % 16)
    mixed = parent ^ C0
    for one, other in iter_unpack("<QQ", tokens):
        product = (mixed ^ one ^ C1) * (other ^ C2)
        mixed = product & MASK ^ product >> 64
    product = (mixed ^ width) * C0
    return product & MASK ^ product >> 64


def digest(salt: Salt) -> bytes:
    """What stands for a salt at the root: equal only for equal salts, and the same everywhere."""
    return blake2b(json.dumps(salt).encode(), digest_size=16).digest()


def root_key(salt: Salt) -> int:
    """The key that a salt's first blocks are chained from."""
    return chain(ROOT, digest(salt))
