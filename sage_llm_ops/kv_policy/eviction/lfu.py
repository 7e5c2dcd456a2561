"""Least frequently used, counted while the block is here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.queues import GuardedQueue
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.kv import BlockKey


@final
class Buckets:
    """Blocks by count, each bucket in the order in which they came to that count. O(1).

    What `GuardedQueue` is where rules bind: both are placed by an order and give the first.
    """

    __slots__ = ("_buckets", "_counts", "_least")

    def __init__(self) -> None:
        self._counts: dict[BlockKey, int] = {}
        self._buckets: dict[int, OrderedDict[BlockKey, None]] = {}
        self._least = 1
        """No bucket is below."""

    def place(self, key: BlockKey, count: int, order: float) -> None:
        """Behind those of its count; `order` is that count, for the other kind of queue."""
        before = self._counts.get(key)
        if before is not None:
            self._leave(key, before)
        elif count < self._least:
            self._least = count
        self._counts[key] = count
        try:
            self._buckets[count][key] = None
        except KeyError:
            self._buckets[count] = OrderedDict({key: None})

    def get(self, key: BlockKey) -> int | None:
        return self._counts.get(key)

    def popitem(self, last: bool = False) -> tuple[BlockKey, int]:
        """The first of the lowest count. The search upwards is paid for by the uses that led there."""
        if not self._counts:
            raise KeyError("no block")
        while self._least not in self._buckets:
            self._least += 1
        count = self._least
        bucket = self._buckets[count]
        key = bucket.popitem(last)[0]
        if not bucket:
            del self._buckets[count]
        del self._counts[key]
        return key, count

    def __delitem__(self, key: BlockKey) -> None:
        self._leave(key, self._counts.pop(key))

    def __contains__(self, key: object) -> bool:
        return key in self._counts

    def __len__(self) -> int:
        return len(self._counts)

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._counts)

    def check_integrity(self) -> None:
        standing = {key: count for count, bucket in self._buckets.items() for key in bucket}
        if standing != self._counts or not all(self._buckets.values()):
            raise IntegrityError("buckets and counts differ")
        if any(count < self._least for count in self._buckets):
            raise IntegrityError(f"a bucket is below the lowest, {self._least}")

    def _leave(self, key: BlockKey, count: int) -> None:
        bucket = self._buckets[count]
        del bucket[key]
        if not bucket:
            del self._buckets[count]


@final
class LFU(EvictionPolicy):
    """The block with fewest uses since it came goes; of equals the one that got there first.

    O(1), and O(log n) under rules. Uses before an eviction are forgotten: what was popular for
    ever stays, and a working set that moves is learnt late.
    """

    name: ClassVar[str] = "lfu"

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        super().__init__(capacity, rules)
        self._order: Any = Buckets() if self._guard is None else self._queue()

    def _touch(self, key: BlockKey) -> bool:
        count = self._order.get(key)
        if count is None:
            return False
        count += 1
        self._order.place(key, count, count)
        return True

    def _insert(self, key: BlockKey) -> None:
        self._order.place(key, 1, 1)

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        key: BlockKey = self._order.popitem(False)[0]
        return key

    def _forget(self, key: BlockKey) -> None:
        del self._order[key]

    def _state(self) -> str:
        return "fewest uses"

    def __contains__(self, key: object) -> bool:
        return key in self._order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._order)

    def _check(self) -> None:
        if not isinstance(self._order, GuardedQueue):
            self._order.check_integrity()
