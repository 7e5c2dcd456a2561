"""What an index is built on: a tree of blocks, and who holds which.

Two implementations that answer alike: `compiled.py` (C) and `tree.py` (Python, the reference).
One thread writes, and `clone` gives readers on other threads a copy of their own, made by the writer.
In C every call is one cut (it keeps the GIL), so that others may ask the tree itself, too.

Tokens are int32 little endian, `n` whole blocks of them; in a tree of block size 0 they are uint64
keys, eight bytes a block, and nothing can be verified. Slots are opaque and mean something until the
next write.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.kv import Tier

TIERS: tuple[Tier, ...] = tuple(Tier)
"""Plane 0 to 2, fastest first."""
EXPECTED = 3
"""The plane of what a holder was given to compute and has not reported yet."""
PLANES = 4
NIL = 0xFFFFFFFF
ANY = (1 << PLANES) - 1
"""A mask of planes: bit p for plane p."""
REPORTED = ANY & ~(1 << EXPECTED)
BY_TIER = tuple((1 << plane + 1) - 1 for plane in range(len(TIERS)))
"""Masks: a tier and all that are faster."""

Reach = npt.NDArray[np.uint32]
"""Leading blocks that each holder has."""


class Tree(Protocol):
    """See the module. Holders are numbers below `holders`; nothing here checks arguments."""

    block_size: int
    holders: int

    def ensure_holders(self, count: int) -> None:
        """Room for holders 0 to count - 1."""

    def root(self, digest: bytes, create: bool) -> int | None:
        """Where the prefixes of a salt begin (16 bytes of digest)."""

    def insert(
        self, digest: bytes, data: bytes, n: int, holder: int, plane: int
    ) -> tuple[int, int, int]:
        """The holder has these blocks below the root of a salt; they are the most recently used. Of the
        last: its slot, when it was born and its key."""

    def find(
        self, digest: bytes, data: bytes, n: int, masks: tuple[int, ...], keyed: bool
    ) -> Found:
        """How far each holder reaches below the root of a salt, once for each mask of planes that may
        be used. `keyed`: the data are keys, and a collision is not seen."""

    def verify(self, slot: int, born: int, data: bytes, n: int) -> int:
        """Of the path of n blocks that ends at the slot: leading ones that have these tokens."""

    def evict(self, most: int) -> list[int]:
        """Drop the least recently used blocks that nothing follows, until `most` are left; keys."""

    def withdraw(self, root: int, data: bytes, n: int, skip: int, holder: int, plane: int) -> int:
        """The holder has none of these blocks from number `skip` on; how many it had."""

    def stored(
        self,
        root: int | None,
        behind: int | None,
        hashes: bytes,
        data: bytes | None,
        n: int,
        holder: int,
        plane: int,
    ) -> bool:
        """Its engine stored blocks that it knows by `hashes` behind the one it knows as `behind`, or
        at the root. False where that one is unknown. Without data the hashes are our keys."""

    def stored_again(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        """It has in this plane what it has in another; how many are known."""

    def removed(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        """One copy less of each; how many were known."""

    def expect(self, root: int, data: bytes, n: int, holder: int) -> None:
        """It will have these blocks. Counted: as many `unexpect` undo it."""

    def unexpect(self, root: int, data: bytes, n: int, holder: int) -> None:
        """Undoes one `expect`."""

    def clear(self, holder: int, plane: int) -> None:
        """It has nothing there, in time proportional to what it had."""

    def key(self, slot: int) -> int:
        """One block's key."""

    def born(self, slot: int) -> int:
        """Tells a slot from the same one after it was freed and given away; NIL where it is free."""

    def held(self, holder: int, plane: int) -> int:
        """Blocks it has there."""

    def stats(self) -> Stats:
        """Counts; see there. Quick, and from any thread."""

    def sets(self) -> int:
        """Different sets of holders among the blocks; for tests, and not quick."""

    def clone(self) -> Tree:
        """A copy for lookups alone."""

    def check(self) -> str:
        """What does not fit together; empty where everything does."""


FOLLOWED = 0x80000000
KNOWN = FOLLOWED - 1


class Found:
    """What a lookup found. `told` is taken apart only where it is asked for: most want `reach`."""

    __slots__ = ("reach", "told")

    def __init__(self, told: int, reach: Reach) -> None:
        self.told = told
        self.reach = reach
        """Holders of the first mask, then those of the second, and so on."""

    @property
    def known(self) -> int:
        """Leading blocks that are in the tree, whoever has them."""
        return self.told & KNOWN

    @property
    def last(self) -> int:
        """Slot of the last of them."""
        return self.told >> 32

    @property
    def followed(self) -> bool:
        """Whether somebody went on from there otherwise."""
        return bool(self.told & FOLLOWED)


class Stats:
    """Of a tree. `conflicts`: searches that met another block under the same key."""

    __slots__ = ("blocks", "bytes", "conflicts", "evicted", "roots")

    def __init__(self, blocks: int, roots: int, conflicts: int, evicted: int, size: int) -> None:
        self.blocks, self.roots = blocks, roots
        self.conflicts, self.evicted, self.bytes = conflicts, evicted, size
