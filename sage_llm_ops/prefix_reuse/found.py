"""The answer to one lookup."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sage_llm_ops.prefix_reuse.base import ANY, BY_TIER, REPORTED, TIERS, Found, Reach
from sage_llm_ops.types.prefix import PrefixHit, Salt

if TYPE_CHECKING:
    from sage_llm_ops.prefix_reuse.index import PrefixReuseIndex


class PrefixMatch:
    """Numbers are tokens, in whole blocks."""

    __slots__ = ("_data", "_found", "_index", "_keyed", "_salt")

    def __init__(
        self, index: PrefixReuseIndex, found: Found, data: bytes, salt: Salt, keyed: bool
    ) -> None:
        self._index, self._found, self._data, self._salt, self._keyed = (
            index,
            found,
            data,
            salt,
            keyed,
        )

    @property
    def known(self) -> int:
        """The longest prefix that is in the index at all: of one who has everything it knows."""
        return self._found.known * self._index.unit

    @property
    def reach(self) -> Reach:
        """Blocks that each holder has, by its number (`PrefixReuseIndex.numbers`)."""
        return self._found.reach

    def of(self, holder: str) -> int:
        """Tokens that one holder has."""
        number = self._index.numbers.get(holder)
        if number is None or number >= len(self._found.reach):
            return 0
        return int(self._found.reach[number]) * self._index.unit

    def holders(self) -> dict[str, int]:
        """Tokens of every holder that has any."""
        reach, names, unit = self._found.reach, self._index.names, self._index.unit
        if reach.size <= 64:
            return {
                names[row]: blocks * unit for row, blocks in enumerate(reach.tolist()) if blocks
            }
        return {names[row]: int(reach[row]) * unit for row in np.flatnonzero(reach).tolist()}

    def best(self) -> PrefixHit | None:
        """The longest; among equals the holder that came first. None where nobody has any."""
        if not self._found.reach.size or not self._found.reach.max():
            return None
        return self.hit(self._index.names[int(self._found.reach.argmax())])

    def hit(self, holder: str) -> PrefixHit:
        """What one holder has, in full. Asks the index again: what went since the lookup is left out."""
        index, keyed = self._index, self._keyed
        width = 8 if keyed else index.width
        total = len(self._data) // width * index.unit if keyed else len(self._data) // 4
        blocks = self.of(holder) // index.unit
        if not blocks:
            return PrefixHit(0, 0.0, total, holder)
        number = index.numbers[holder]
        found = index.find(self._data, self._salt, (ANY, REPORTED, *BY_TIER), keyed, blocks)
        blocks, reported, *by_tier = found.reach.reshape(2 + len(TIERS), -1)[:, number].tolist()
        if not blocks:
            return PrefixHit(0, 0.0, total, holder)
        sure = max(0.0, 1.0 - blocks * 2.0**-index.hash_bits) if keyed else 1.0
        return PrefixHit(
            blocks * index.unit,
            sure * reported / blocks,
            total - blocks * index.unit,
            holder,
            {tier: n * index.unit for tier, n in zip(TIERS, by_tier, strict=True)},
            index.entry(found.last, blocks) if found.known == blocks else None,
        )
