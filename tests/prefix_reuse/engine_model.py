"""An engine's prefix cache as vLLM keeps it, publishing what becomes of it: the truth that a view is
compared with."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Any

import msgspec

from sage_llm_ops.prefix_reuse.engine_hashes import EngineHashes, as_number

Key = tuple[int, ...]
"""All tokens up to the end of a block."""


class EngineModel:
    """Blocks are cached copy by copy, as requests fill them, and evicted least recently used first."""

    def __init__(self, block_size: int, capacity: int, seed: str = "0") -> None:
        self.block_size, self.capacity = block_size, capacity
        self._hashes = EngineHashes("sha256", seed)
        self.copies: OrderedDict[tuple[Key, int], None] = OrderedDict()
        """Least recent first; a block may be there twice."""
        self.events: list[dict[str, Any]] = []
        self._made = 0

    def holds(self, tokens: list[int]) -> int:
        """Leading tokens in whole cached blocks."""
        keys = {key for key, _ in self.copies}
        size, found = self.block_size, 0
        while tuple(tokens[: found + size]) in keys and found + size <= len(tokens):
            found += size
        return found

    def serve(self, tokens: list[int], rng: random.Random) -> int:
        """Run one request to its end; what was cached. Now and then it does not look first, as two
        that are in one batch do not: then blocks are there twice."""
        size = self.block_size
        cached = 0 if rng.random() < 0.2 else self.holds(tokens)
        whole = len(tokens) // size * size
        used = []
        for end in range(size, cached + 1, size):
            copy = next(c for c in self.copies if c[0] == tuple(tokens[:end]))
            used.append(copy)
        new = []
        for end in range(cached + size, whole + 1, size):
            self._made += 1
            new.append((tuple(tokens[:end]), self._made))
        while len(self.copies) + len(new) > self.capacity:
            victim = next((c for c in self.copies if c not in used), None)
            if victim is None:
                new = new[: self.capacity - len(self.copies)]
                break
            self._evict(victim)
        self._store(tokens, cached, new)
        for copy in [*new, *used]:
            self.copies[copy] = None
        for copy in reversed([*used, *new]):  # freed from the last to the first
            self.copies.move_to_end(copy)
        return cached

    def clear(self) -> None:
        self.copies.clear()
        self.events.append({"type": "AllBlocksCleared"})

    def take(self) -> bytes | None:
        """One batch of what happened, as it is published."""
        if not self.events:
            return None
        out, self.events = msgspec.msgpack.encode([0.0, self.events, 0]), []
        return out

    def _names(self, tokens: list[int]) -> list[int]:
        return [as_number(name) for name in self._hashes.chain(tokens, self.block_size)]

    def _store(self, tokens: list[int], cached: int, new: list[tuple[Key, int]]) -> None:
        if not new:
            return
        names, first = self._names(tokens), cached // self.block_size
        last = first + len(new)
        self.events.append(
            {
                "type": "BlockStored",
                "block_hashes": names[first:last],
                "parent_block_hash": names[first - 1] if first else None,
                "token_ids": tokens[cached : last * self.block_size],
                "block_size": self.block_size,
                "lora_id": None,
                "medium": "GPU",
                "lora_name": None,
                "group_idx": 0,
            }
        )

    def _evict(self, copy: tuple[Key, int]) -> None:
        del self.copies[copy]
        self.events.append(
            {
                "type": "BlockRemoved",
                "block_hashes": self._names(list(copy[0]))[-1:],
                "medium": "GPU",
                "group_idx": 0,
            }
        )
