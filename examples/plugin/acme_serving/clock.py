"""An eviction policy: first in, first out, with a second chance for what was used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from sage_llm_ops.kv_policy import EvictionPolicy, Rules
from sage_llm_ops.types.kv import BlockKey


class Clock(EvictionPolicy):
    """Its blocks lie in a `self._queue()`: so pins, closed prefixes and tenants hold here too."""

    name: ClassVar[str] = "clock"
    version: ClassVar[int] = 1

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        super().__init__(capacity, rules)
        self._order: Any = self._queue()
        """Blocks, and whether they were used since they came or were passed over."""

    def _touch(self, key: BlockKey) -> bool:
        if key not in self._order:
            return False
        self._order[key] = True
        return True

    def _insert(self, key: BlockKey) -> None:
        self._order[key] = False

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        while True:
            key, used = self._order.popitem(False)
            if not used:
                found: BlockKey = key
                return found
            self._order[key] = False

    def _forget(self, key: BlockKey) -> None:
        del self._order[key]

    def _state(self) -> str:
        return "oldest that was not used"

    def __contains__(self, key: object) -> bool:
        return key in self._order

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[BlockKey]:
        return iter(self._order)

    def _check(self) -> None:
        """One queue: nothing to compare it with."""
