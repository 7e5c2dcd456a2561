"""One worker that reports its prefix cache: its batches, applied to the index."""

from __future__ import annotations

from collections import Counter
from typing import final

from sage_llm_ops.prefix_reuse.base import EXPECTED, TIERS
from sage_llm_ops.prefix_reuse.index import PrefixReuseIndex
from sage_llm_ops.types.events import KvBatch
from sage_llm_ops.types.kv import KvChange, KvRemoved, KvStored, PrefixCache
from sage_llm_ops.types.prefix import Salt


@final
class Told:
    """Applies batches in their order. What does not fit is counted in `drops` and left out: then the
    worker has more than the index says, never less.

    `duplicates`   batches that were taken before
    `gaps`         batches that are lost for good: all that was told before them is forgotten
    `misfits`      changes whose lengths, block size or tier make no sense
    `orphans`      blocks behind one that is not known
    `strangers`    blocks taken out that are not known
    """

    def __init__(
        self, index: PrefixReuseIndex, worker: str, model: str, cache: PrefixCache
    ) -> None:
        self._index, self._worker, self._model, self.cache = index, worker, model, cache
        self._next = 0
        self.blocks_in = 0
        self.heard: float | None = None
        """When its latest batch came."""
        self.drops: Counter[str] = Counter()

    def take(self, batch: KvBatch) -> int:
        """Apply one; how many blocks came in."""
        self.heard = batch.now
        if batch.reset or batch.number > self._next:
            self.drops["gaps"] += 1
            self.forget()
        elif batch.number < self._next:
            self.drops["duplicates"] += 1
            return 0
        self._next = batch.number if batch.more else batch.number + batch.count
        before = self.blocks_in
        number = self._index.add(self._worker)
        for change in batch.changes:
            self._apply(change, number)
        return self.blocks_in - before

    def forget(self) -> None:
        """It may have nothing. What it was given since and is expected to have stays."""
        number = self._index.add(self._worker)
        for plane in range(EXPECTED):
            self._index.tree.clear(number, plane)

    def _apply(self, change: KvChange, number: int) -> None:
        tree, drops = self._index.tree, self.drops
        if isinstance(change, KvStored):
            self._stored(change, number)
        elif isinstance(change, KvRemoved):
            n, rest = divmod(len(change.hashes), 8)
            if rest or not 0 <= change.tier < len(TIERS):
                drops["misfits"] += 1
                return
            known = tree.removed(change.hashes, n, number, change.tier)
            if known < n:
                drops["strangers"] += n - known
        else:
            self.forget()

    def _stored(self, change: KvStored, number: int) -> None:
        tree, drops = self._index.tree, self.drops
        n, rest = divmod(len(change.hashes), 8)
        size = self._index.block_size
        if rest or not 0 <= change.tier < len(TIERS) or change.block_size != size:
            drops["misfits"] += 1
        elif not change.tokens:
            known = tree.stored_again(change.hashes, n, number, change.tier)
            self.blocks_in += known
            if known < n:
                drops["orphans"] += n - known
        elif len(change.tokens) != 4 * size * n:
            drops["misfits"] += 1
        elif n:
            root = None
            if change.parent is None:
                salt = Salt(self._model, change.lora, extra=change.extra)
                root = tree.root(self._index.digest(salt), True)
            if tree.stored(
                root, change.parent, change.hashes, change.tokens, n, number, change.tier
            ):
                self.blocks_in += n
            else:
                drops["orphans"] += n
