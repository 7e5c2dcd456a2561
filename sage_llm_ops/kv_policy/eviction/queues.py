"""The two queues that policies are written over.

A policy orders blocks in queues and takes the first one out. Without rules that is an
`OrderedDict`, whose operations are C. With rules (pins, closed prefixes, tenants) the first block
may not be evictable, and walking past it would cost O(n): `GuardedQueue` offers the part of
`OrderedDict`'s interface that the policies use, but takes the first *evictable* block, in O(log n).

How: a heap of ranks, one for each tenant. A blocked block that comes to the top is parked outside;
who unblocks it says so, and it returns with its old rank. A block that moved leaves its old entry
behind, which is dropped when it surfaces, or all of them when they outnumber the living.
Refused: a skip list or a balanced tree (faster only on paper in Python), and blocked blocks that
keep their place in a list (a pool full of running requests makes every eviction a scan).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, final

from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.kv import BlockKey

Rank = tuple[float, int]
"""What a queue is ordered by, and the number of the placement: unique, earlier goes first."""


class Guard(Protocol):
    """Who says what may be evicted, and whose turn it is."""

    turn: str

    def blocked(self, key: BlockKey) -> bool: ...

    def tenant(self, key: BlockKey) -> str: ...


@final
class GuardedQueue:
    """An ordered mapping whose `popitem` takes the first evictable block of the tenant in turn."""

    __slots__ = ("_by_tenant", "_entries", "_guard", "_heaps", "_parked", "_placed")

    def __init__(self, guard: Guard, *, by_tenant: bool = True) -> None:
        self._guard = guard
        self._by_tenant = by_tenant
        self._entries: dict[BlockKey, tuple[Rank, Any]] = {}
        self._heaps: dict[str, list[tuple[Rank, BlockKey]]] = {}
        self._parked: set[BlockKey] = set()
        self._placed = 0

    def place(self, key: BlockKey, value: Any, order: float) -> None:
        """Behind all blocks of the same order, wherever it stood before."""
        self._placed += 1
        rank = (order, self._placed)
        self._entries[key] = (rank, value)
        self._parked.discard(key)
        self._push(rank, key)

    def __setitem__(self, key: BlockKey, value: Any) -> None:
        """At the end; a block that is here keeps its place, as in an `OrderedDict`."""
        found = self._entries.get(key)
        if found is None:
            self.place(key, value, 0.0)
        else:
            self._entries[key] = (found[0], value)

    def __getitem__(self, key: BlockKey) -> Any:
        return self._entries[key][1]

    def get(self, key: BlockKey) -> Any:
        found = self._entries.get(key)
        return None if found is None else found[1]

    def __delitem__(self, key: BlockKey) -> None:
        del self._entries[key]
        self._parked.discard(key)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._entries)

    def move_to_end(self, key: BlockKey) -> None:
        (order, _), value = self._entries[key]
        self.place(key, value, order)

    def popitem(self, last: bool = False) -> tuple[BlockKey, Any]:
        """The first evictable block; `KeyError` where there is none."""
        key = self.first()
        value = self._entries.pop(key)[1]
        heappop(self._heap_of(key))
        return key, value

    def first(self) -> BlockKey:
        """The block that `popitem` would take."""
        heap = self._heaps.get(self._guard.turn if self._by_tenant else "", [])
        entries, blocked = self._entries, self._guard.blocked
        while heap:
            rank, key = heap[0]
            found = entries.get(key)
            if found is not None and found[0] == rank:
                if not blocked(key):
                    return key
                self._parked.add(key)
            heappop(heap)
        raise KeyError("no evictable block")

    def first_order(self) -> float:
        """The order of the block that `popitem` would take."""
        return self._entries[self.first()][0][0]

    def unblocked(self, key: BlockKey) -> None:
        """The guard no longer blocks it. Keys that are elsewhere are ignored."""
        if key in self._parked:
            self._parked.discard(key)
            self._push(self._entries[key][0], key)

    def check_integrity(self) -> None:
        """Every block is in a heap under its present rank, or parked because it is blocked."""
        standing = {
            key for heap in self._heaps.values() for rank, key in heap if self._is_live(rank, key)
        }
        for key in self._entries:
            if (key in standing) == (key in self._parked):
                raise IntegrityError(f"block {key!r} must be either in the queue or parked")
            if key in self._parked and not self._guard.blocked(key):
                raise IntegrityError(f"block {key!r} is parked although nothing blocks it")
        if not self._parked <= self._entries.keys():
            raise IntegrityError("blocks are parked that are not in the queue")

    def _is_live(self, rank: Rank, key: BlockKey) -> bool:
        found = self._entries.get(key)
        return found is not None and found[0] == rank

    def _heap_of(self, key: BlockKey) -> list[tuple[Rank, BlockKey]]:
        return self._heaps.setdefault(self._guard.tenant(key) if self._by_tenant else "", [])

    def _push(self, rank: Rank, key: BlockKey) -> None:
        heap = self._heap_of(key)
        heappush(heap, (rank, key))
        if len(heap) > 2 * len(self._entries) + 64:
            heap[:] = [entry for entry in heap if self._is_live(*entry)]
            heapify(heap)


Ghosts = OrderedDict[BlockKey, None]
"""Blocks that are remembered and not here, the longest gone first."""
