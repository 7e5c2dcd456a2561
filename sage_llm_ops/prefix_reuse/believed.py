"""What a worker that does not report its cache probably holds: what it was sent, less what it will
have evicted by now.

A model of its cache (least recently used, a prefix outlives what follows it) says which blocks those
are. How large it is, the worker's own answers teach: one that had less of a prompt than was believed
has evicted more, so the belief shrinks by a tenth; one that had all of it lets it grow back.
"""

from __future__ import annotations

from typing import final

from sage_llm_ops.prefix_reuse.base import REPORTED
from sage_llm_ops.prefix_reuse.hashing import chained
from sage_llm_ops.prefix_reuse.index import PrefixReuseIndex
from sage_llm_ops.prefix_reuse.keys import root_key
from sage_llm_ops.types.prefix import Salt

UNKNOWN_BLOCKS = 8192
"""Where a worker does not say how many blocks its cache has."""
LEAST = 16
SHRINK, GROW = 0.9, 1.01


@final
class Believed:
    """Of one worker, for blocks of one size. It speaks to the index as an engine would, calling each
    block by our own key."""

    def __init__(self, index: PrefixReuseIndex, worker: str, capacity: int) -> None:
        self._index, self._worker = index, worker
        self._most = max(LEAST, capacity)
        self.capacity = float(self._most)
        self._model = PrefixReuseIndex(index.block_size, max_blocks=1 << 30)
        self._model.add(worker)

    def sent(self, data: bytes, n: int, salt: Salt) -> None:
        """It computed these n blocks, or touched them."""
        index, tree, width = self._index, self._model.tree, self._index.width
        digest = index.digest(salt)
        keyed, number = not index.block_size, index.add(self._worker)
        known = tree.find(digest, data, n, (REPORTED,), keyed).known
        tree.insert(digest, data, n, 0, 0)
        if known:  # the index may have evicted some since: then its ends, so no block twice
            shown = index.tree.find(digest, data, known, (REPORTED,), keyed).reach
            known = int(shown[number])
        if known < n:
            keys = data if keyed else chained(root_key(salt), data, n, width)
            index.tree.stored(
                index.tree.root(digest, True),
                int.from_bytes(keys[8 * known - 8 : 8 * known], "little") if known else None,
                keys[8 * known : 8 * n],
                None if keyed else data[known * width : n * width],
                n - known,
                number,
                0,
            )
        self._forget()

    def answered(self, claimed: int, cached: int, unit: int) -> None:
        """It was believed to have `claimed` tokens of a prompt and had `cached`."""
        if cached + unit <= claimed:
            self.capacity = max(LEAST, min(self.capacity, len(self._model)) * SHRINK)
            self._forget()
        elif claimed:
            self.capacity = min(self._most, self.capacity * GROW)

    def _forget(self) -> None:
        gone = self._model.tree.evict(int(self.capacity))
        if gone:
            names = b"".join(key.to_bytes(8, "little") for key in gone)
            self._index.tree.removed(names, len(gone), self._index.add(self._worker), 0)
