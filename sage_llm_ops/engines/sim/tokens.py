"""What the simulated model says, and the keys of its prefix blocks.

The next token is a function of the whole sequence before it, as in greedy decoding: the state is
the CRC-32 of all token bytes so far. A continued attempt (prompt + delivered tokens) therefore goes
on exactly where the first one stopped. A node that carries a trace's block ids has no tokens to
digest: there the token depends on the blocks and on its place in the stream.

CRC and BLAKE2 are the same in every process; Python's `hash` of bytes is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import final
from zlib import crc32

import msgspec

from sage_llm_ops.engines.sim.cache import Key
from sage_llm_ops.types.errors import InvalidRequest
from sage_llm_ops.types.plans import PlanNode

TOKEN_BYTES = 4
FIRST_TOKEN = 32
"""The space: with the default vocabulary answers are printable ASCII under the byte tokenizer."""


def _digest(node: PlanNode) -> int:
    if node.lora:
        return crc32(node.tokens or str(node.blocks[-1:]).encode(), crc32(node.lora.encode()))
    if node.tokens:
        return crc32(node.tokens)
    # A block's id stands for everything before it too, so the last one is enough.
    last = node.blocks[-1] if node.blocks else 0
    return crc32((last & (1 << 64) - 1).to_bytes(8, "little"), len(node.blocks))


@final
class TokenStream:
    """The answer to one node, token by token."""

    __slots__ = ("_place", "_state", "_vocab")

    def __init__(self, node: PlanNode, vocab_size: int) -> None:
        self._vocab = vocab_size
        self._state = _digest(node)
        self._place = -1 if node.tokens else node.offset

    def take(self, count: int) -> list[int]:
        """The next `count` tokens."""
        made = []
        state, place, vocab = self._state, self._place, self._vocab
        for _ in range(count):
            if place >= 0:
                mixed = crc32(place.to_bytes(8, "little"), state)
                place += 1
            else:
                mixed = state
            # CRC is linear: without the product, neighbouring states would give related tokens.
            token = FIRST_TOKEN + (mixed * 0x9E3779B97F4A7C15 >> 24 & 0xFFFFFFFF) % vocab
            made.append(token)
            if place < 0:
                state = crc32(token.to_bytes(TOKEN_BYTES, "little"), state)
        self._state, self._place = state, place
        return made


def block_keys(node: PlanNode, block_size: int) -> Sequence[Key]:
    """Keys of the prompt's full blocks. `InvalidRequest` for trace blocks that do not divide."""
    if not node.blocks:
        return _hashed_keys(node.tokens, block_size, node.lora.encode())
    if node.lora:  # what an adapter computed is of no use to another one, nor to the bare model
        bare = block_keys(msgspec.structs.replace(node, lora=""), block_size)
        return [blake2b(f"{node.lora}|{key!r}".encode(), digest_size=8).digest() for key in bare]
    # A trace names the blocks of its prompt alone, not of tokens that an earlier attempt delivered.
    full = (node.n_tokens - node.offset) // block_size
    if node.block_size == block_size:
        return node.blocks[:full]
    parts, rest = divmod(node.block_size, block_size)
    if not parts or rest:
        raise InvalidRequest(
            f"trace blocks of {node.block_size} tokens on an engine with block_size={block_size}; "
            "set the engine's block_size to a divisor of the trace's"
        )
    # Negative, so that a trace with other block sizes on the same engine meets no foreign key.
    keys = [
        -((block * parts + part) << 16 | parts) - 1
        for block in node.blocks
        for part in range(parts)
    ]
    return keys[:full]


def _hashed_keys(tokens: bytes, block_size: int, previous: bytes) -> list[Key]:
    keys: list[Key] = []
    width = block_size * TOKEN_BYTES
    for end in range(width, len(tokens) + 1, width):
        previous = blake2b(previous + tokens[end - width : end], digest_size=8).digest()
        keys.append(previous)
    return keys


def embedding(node: PlanNode, dim: int) -> list[float]:
    """A unit vector that depends on the prompt alone."""
    state = _digest(node)
    raw = []
    for place in range(dim):
        state = crc32(place.to_bytes(4, "little"), state)
        raw.append((state * 0x9E3779B97F4A7C15 >> 24 & 0xFFFFFFFF) / 2.0**31 - 1.0)
    norm = math.sqrt(sum(x * x for x in raw)) or 1.0
    return [x / norm for x in raw]
