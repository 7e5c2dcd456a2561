"""First in, first out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.types.kv import BlockKey


@final
class FIFO(EvictionPolicy):
    """The oldest insertion goes; being used changes nothing. O(1)."""

    name: ClassVar[str] = "fifo"

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        super().__init__(capacity, rules)
        self._order: Any = self._queue()

    def _touch(self, key: BlockKey) -> bool:
        return key in self._order

    def _insert(self, key: BlockKey) -> None:
        self._order[key] = None

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        key: BlockKey = self._order.popitem(False)[0]
        return key

    def _forget(self, key: BlockKey) -> None:
        del self._order[key]

    def _state(self) -> str:
        return "oldest insertion"

    def __contains__(self, key: object) -> bool:
        return key in self._order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._order)

    def _check(self) -> None:
        """One queue: nothing to compare it with."""
