"""ARC, the adaptive replacement cache of Megiddo and Modha (FAST 2003, figure 4).

Two lists of resident blocks: `recent` (T1, used once) and `frequent` (T2, used more often); two of
ghosts, `gone_recent` (B1) and `gone_frequent` (B2). A ghost that is asked for again says which list
was too short, and moves the target size of `recent`. The step is the real quotient of the ghosts'
lengths, at least 1, as libCacheSim computes it; an integer quotient changes hit ratios by up to
0.2 points.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.queues import Ghosts
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.kv import BlockKey

NEW, WAS_RECENT, WAS_FREQUENT = 0, 1, 2


@final
class ARC(EvictionPolicy):
    """Balances recency against frequency by what it regrets having evicted. O(1)."""

    name: ClassVar[str] = "arc"

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        super().__init__(capacity, rules)
        self._target = 0.0
        """Of `recent`, in blocks."""
        self._recent: Any = self._queue()
        self._frequent: Any = self._queue()
        self._gone_recent: Ghosts = OrderedDict()
        self._gone_frequent: Ghosts = OrderedDict()
        self._foreseen: BlockKey | None = None
        self._past = NEW
        """What the foreseen block was."""

    def _touch(self, key: BlockKey) -> bool:
        if key in self._frequent:
            self._frequent.move_to_end(key)
            return True
        if key in self._recent:
            del self._recent[key]
            self._frequent[key] = None
            return True
        return False

    def _insert(self, key: BlockKey) -> None:
        if key != self._foreseen:
            self._foresee(key)
        self._foreseen = None
        if self._past == NEW:
            self._recent[key] = None
        else:
            self._frequent[key] = None

    def _foresee(self, key: BlockKey) -> None:
        """Learn from a miss, once, before room is made for it."""
        self._foreseen = key
        gone_recent, gone_frequent = self._gone_recent, self._gone_frequent
        if key in gone_recent:
            step = max(1.0, len(gone_frequent) / len(gone_recent))
            self._target = min(self.capacity, self._target + step)
            del gone_recent[key]
            self._past = WAS_RECENT
        elif key in gone_frequent:
            step = max(1.0, len(gone_recent) / len(gone_frequent))
            self._target = max(0.0, self._target - step)
            del gone_frequent[key]
            self._past = WAS_FREQUENT
        else:
            self._past = NEW
            self._trim()

    def _trim(self) -> None:
        """Forget ghosts: both recent lists make one cache, all four make two."""
        gone_recent, gone_frequent = self._gone_recent, self._gone_frequent
        once = len(self._recent) + len(gone_recent)
        if once >= self.capacity:
            if gone_recent:
                gone_recent.popitem(False)
        elif gone_frequent and once + len(self._frequent) + len(gone_frequent) >= 2 * self.capacity:
            gone_frequent.popitem(False)

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        past = NEW
        if incoming is not None:
            if incoming != self._foreseen:
                self._foresee(incoming)
            past = self._past
        recent = len(self._recent)
        if recent == self.capacity and past == NEW:
            # Nothing but blocks used once: they leave no trace.
            key: BlockKey = self._recent.popitem(False)[0]
            return key
        over = recent > self._target or (past == WAS_FREQUENT and recent == self._target)
        try:
            return self._demote_recent() if over else self._demote_frequent()
        except KeyError:  # empty, or nothing in it is evictable
            return self._demote_frequent() if over else self._demote_recent()

    def _demote_recent(self) -> BlockKey:
        key: BlockKey = self._recent.popitem(False)[0]
        self._gone_recent[key] = None
        return key

    def _demote_frequent(self) -> BlockKey:
        key: BlockKey = self._frequent.popitem(False)[0]
        self._gone_frequent[key] = None
        return key

    def _forget(self, key: BlockKey) -> None:
        if key in self._recent:
            del self._recent[key]
        else:
            del self._frequent[key]

    def _state(self) -> str:
        return f"{len(self._recent)} used once, target {self._target:.0f}"

    def __contains__(self, key: object) -> bool:
        return key in self._frequent or key in self._recent

    def __len__(self) -> int:
        return len(self._recent) + len(self._frequent)

    def __iter__(self) -> Iterator[BlockKey]:
        return chain(self._recent, self._frequent)

    def _check(self) -> None:
        lists = (self._recent, self._frequent, self._gone_recent, self._gone_frequent)
        if len(set(chain(*lists))) != sum(map(len, lists)):
            raise IntegrityError("arc: a block is in two lists")
        if not 0.0 <= self._target <= self.capacity:
            raise IntegrityError(f"arc: target {self._target} of {self.capacity}")
        if len(self._gone_recent) + len(self._gone_frequent) > 2 * self.capacity:
            raise IntegrityError("arc: more ghosts than two caches hold")
