"""S3-FIFO (Yang, Zhang, Qiu, Yue and Rashmi, SOSP 2023): three FIFO queues.

New blocks enter `small`, a tenth of the cache. One that is used twice there moves to `main`; the
others leave and are remembered as ghosts; a ghost that is asked for again enters `main` directly.
`main` gives a block that was used another round, up to three.

Two rules exist for the time before the first eviction, and they differ by several points:

    full   once `small` is full, new blocks enter `main` (libCacheSim since 2025; the default)
    paper  new blocks always enter `small` (the paper's text, libCacheSim of 2024)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.queues import Ghosts
from sage_llm_ops.types.errors import IntegrityError, UnknownName
from sage_llm_ops.types.kv import BlockKey

SMALL_SHARE, GHOST_SHARE = 0.1, 0.9
PROMOTED_AT = 2
MOST_ROUNDS = 3
WARM_UPS = ("full", "paper")


@final
class S3FIFO(EvictionPolicy):
    """Quick demotion of what is used once. O(1) amortised: each extra round was paid for by a use."""

    name: ClassVar[str] = "s3fifo"

    def __init__(self, capacity: int, rules: Rules | None = None, *, warm_up: str = "full") -> None:
        super().__init__(capacity, rules)
        if warm_up not in WARM_UPS:
            raise UnknownName("warm-up rule of s3fifo", warm_up, WARM_UPS)
        self._small_size = max(1, int(SMALL_SHARE * capacity))
        self._main_size = capacity - self._small_size
        self._ghost_size = int(GHOST_SHARE * capacity)
        self._small: Any = self._queue()
        """Blocks and their uses since they came; so in `main`."""
        self._main: Any = self._queue()
        self._ghosts: Ghosts = OrderedDict()
        self._spill = warm_up == "full"
        """What does not fit into `small` enters `main`: until the first eviction."""
        self._foreseen: BlockKey | None = None
        self._was_here = False

    def _touch(self, key: BlockKey) -> bool:
        queue = self._small
        if key not in queue:
            queue = self._main
            if key not in queue:
                return False
        queue[key] += 1
        return True

    def _insert(self, key: BlockKey) -> None:
        if key != self._foreseen:
            self._foresee(key)
        self._foreseen = None
        if self._was_here or (self._spill and len(self._small) >= self._small_size):
            self._main[key] = 0
        else:
            self._small[key] = 0

    def _foresee(self, key: BlockKey) -> None:
        """A ghost that is asked for stops being one before room is made for it."""
        self._foreseen = key
        self._was_here = key in self._ghosts
        if self._was_here:
            del self._ghosts[key]

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        if incoming is not None and incoming != self._foreseen:
            self._foresee(incoming)
        self._spill = False
        main_first = not self._small or len(self._main) > self._main_size
        try:
            return self._from_main() if main_first else self._from_small()
        except KeyError:  # empty by now, or nothing in it is evictable
            return self._from_small() if main_first else self._from_main()

    def _from_small(self) -> BlockKey:
        small, ghosts = self._small, self._ghosts
        while True:
            key, uses = small.popitem(False)
            if uses >= PROMOTED_AT:
                self._main[key] = 0
                continue
            if self._ghost_size:
                ghosts[key] = None
                if len(ghosts) > self._ghost_size:
                    ghosts.popitem(False)
            found: BlockKey = key
            return found

    def _from_main(self) -> BlockKey:
        main = self._main
        while True:
            key, uses = main.popitem(False)
            if not uses:
                found: BlockKey = key
                return found
            main[key] = min(uses, MOST_ROUNDS) - 1

    def _forget(self, key: BlockKey) -> None:
        if key in self._small:
            del self._small[key]
        else:
            del self._main[key]

    def _state(self) -> str:
        return f"{len(self._small)} on trial, {len(self._main)} proven"

    def __contains__(self, key: object) -> bool:
        return key in self._small or key in self._main

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __iter__(self) -> Iterator[BlockKey]:
        return chain(self._small, self._main)

    def _check(self) -> None:
        lists = (self._small, self._main, self._ghosts)
        if len(set(chain(*lists))) != sum(map(len, lists)):
            raise IntegrityError("s3fifo: a block is in two queues")
        if len(self._ghosts) > self._ghost_size:
            raise IntegrityError(f"s3fifo: {len(self._ghosts)} ghosts of {self._ghost_size}")
