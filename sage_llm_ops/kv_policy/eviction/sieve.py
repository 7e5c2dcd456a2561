"""SIEVE (Zhang, Yang, Yue, Vigfusson and Rashmi, NSDI 2024): one queue and a hand.

The hand goes from the oldest block to the newest and around. A block that was used since the hand
passed is passed again and keeps its place; the first that was not goes. Here the hand is where two
queues meet: `ahead` of it and `behind` it, both oldest first; at the end of `ahead` they change
places. A block that may not be evicted waits at the hand and is next when it may.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.kv import BlockKey


@final
class SIEVE(EvictionPolicy):
    """Lazy promotion and quick demotion with one bit. O(1) amortised: each pass was paid for by a
    use."""

    name: ClassVar[str] = "sieve"

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        super().__init__(capacity, rules)
        self._ahead: Any = self._queue()
        """Blocks, and whether they were used since the hand passed; so in `behind`."""
        self._behind: Any = self._queue()

    def _touch(self, key: BlockKey) -> bool:
        queue = self._ahead
        if key not in queue:
            queue = self._behind
            if key not in queue:
                return False
        queue[key] = True
        return True

    def _insert(self, key: BlockKey) -> None:
        if not self._ahead:  # the hand stands behind the newest block, and that is at the oldest
            self._turn()
        self._ahead[key] = False

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        for _ in range(3):  # the rest of this lap, one that clears every bit, one that finds
            key = self._advance()
            if key is not None:
                return key
            self._turn()
        raise KeyError("no evictable block")

    def _advance(self) -> BlockKey | None:
        ahead, behind = self._ahead, self._behind
        try:
            while True:
                key, used = ahead.popitem(False)
                if not used:
                    found: BlockKey = key
                    return found
                behind[key] = False
        except KeyError:  # empty, or nothing in it is evictable
            return None

    def _turn(self) -> None:
        self._ahead, self._behind = self._behind, self._ahead

    def _forget(self, key: BlockKey) -> None:
        if key in self._ahead:
            del self._ahead[key]
        else:
            del self._behind[key]

    def _state(self) -> str:
        return f"{len(self._ahead)} ahead of the hand"

    def __contains__(self, key: object) -> bool:
        return key in self._ahead or key in self._behind

    def __len__(self) -> int:
        return len(self._ahead) + len(self._behind)

    def __iter__(self) -> Iterator[BlockKey]:
        return chain(self._behind, self._ahead)

    def _check(self) -> None:
        if not set(self._ahead).isdisjoint(self._behind):
            raise IntegrityError("sieve: a block is on both sides of the hand")
