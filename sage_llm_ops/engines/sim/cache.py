"""The KV memory of one simulated engine: a pool of blocks with a prefix cache in it.

Every block is in exactly one of four states, and only the counts and the keys of shared ones are
kept, no block numbers:

    free      holds nothing                      `free`
    private   one sequence's, not shareable      counted by its sequence
    in use    under a key, referenced            `_refs[key] > 0`
    idle      under a key, unreferenced          `_refs[key] == 0`, in `_idle`, least recent first

A sequence releases its blocks from the last to the first, so a prefix outlives what continues it.
Empty blocks are taken before an idle one is evicted (vLLM keeps both in one queue and may evict
while empty blocks exist). A key that is computed twice at the same time stays private the second
time, as in vLLM.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import final

from sage_llm_ops.types.errors import IntegrityError

Key = int | bytes
"""Identity of a block's content and of everything before it."""


@final
class BlockPool:
    """Counts blocks and knows which prefixes they hold. Lack of room is an answer, no error."""

    __slots__ = ("_idle", "_refs", "evicted", "free", "total", "version")

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self.version = 0
        """Grows whenever a take that failed might succeed now."""
        self.evicted = 0
        self._refs: dict[Key, int] = {}
        self._idle: OrderedDict[Key, None] = OrderedDict()

    @property
    def active(self) -> int:
        """Blocks that running sequences hold."""
        return self.total - self.free - len(self._idle)

    @property
    def cached(self) -> int:
        """Blocks under a key, referenced or not."""
        return len(self._refs)

    def match(self, keys: Iterable[Key]) -> int:
        """How many leading keys are here. Changes nothing."""
        refs = self._refs
        found = 0
        for key in keys:
            if key not in refs:
                break
            found += 1
        return found

    def take(self, shared: Sequence[Key], new: int) -> bool:
        """Reference `shared` (all present), take `new` private blocks; False: nothing changed."""
        refs, idle = self._refs, self._idle
        room = self.free + len(idle) - new
        if room < len(shared):
            # Only now count exactly: those of `shared` that are idle stop being evictable.
            if room < 0 or room < sum(1 for key in shared if not refs[key]):
                return False
        for key in shared:
            count = refs[key]
            if not count:
                del idle[key]
            refs[key] = count + 1
        if new:
            self._take_private(new)
        return True

    def _take_private(self, count: int) -> None:
        missing = count - self.free
        if missing <= 0:
            self.free -= count
            return
        self.free = 0
        self.evicted += missing
        refs, evict = self._refs, self._idle.popitem
        for _ in range(missing):
            del refs[evict(last=False)[0]]

    def publish(self, keys: Iterable[Key], held: list[Key]) -> None:
        """Turn one private block per new key into a shared one, appended to the holder's `held`."""
        refs = self._refs
        for key in keys:
            if key not in refs:
                refs[key] = 1
                held.append(key)
        self.version += 1

    def release(self, held: Sequence[Key], private: int) -> None:
        """Give back everything that a sequence held."""
        refs, idle = self._refs, self._idle
        self.free += private
        for key in reversed(held):
            count = refs[key] - 1
            refs[key] = count
            if not count:
                idle[key] = None
        self.version += 1

    def check_integrity(self, holders: Iterable[tuple[Sequence[Key], int]]) -> None:
        """Compare with what the sequences say they hold; raises `IntegrityError`."""
        refs: dict[Key, int] = dict.fromkeys(self._refs, 0)
        private = 0
        for held, own in holders:
            private += own
            for key in held:
                refs[key] = refs.get(key, 0) + 1
        if refs != self._refs:
            raise IntegrityError("block pool: reference counts differ from what sequences hold")
        if {key for key, count in refs.items() if not count} != set(self._idle):
            raise IntegrityError("block pool: the idle list is not the unreferenced keys")
        if self.free < 0 or self.free + private + len(refs) != self.total:
            raise IntegrityError(
                f"block pool: {self.free} free + {private} private + {len(refs)} keyed "
                f"is not the total {self.total}"
            )
