"""The tree in C (`native/prefix.c`), called through ctypes."""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_char_p, c_int, c_int32, c_uint32, c_uint64, c_void_p
from typing import Any, final

import numpy as np
import numpy.typing as npt

from sage_llm_ops.prefix_reuse.base import EXPECTED, NIL, Found, Stats
from sage_llm_ops.prefix_reuse.native import library

FULL = 0xFFFFFFFE
"""What a change returns where there is no memory for it."""
FAULTS = (
    "",
    "no memory to check",
    "a block below one that is gone",
    "a block that its own key does not find",
    "a key that does not follow from tokens and parent",
    "a block that nobody has and nothing follows",
    "a wrong count of children",
    "a wrong count of blocks",
    "a broken order of use",
    "a set of holders with a wrong count of references",
    "a wrong count of what a holder has",
    "a wrong count of engine's hashes",
)
"""By the number that `px_check` returns."""

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "px_new": (c_void_p, (c_int32, c_uint32, c_uint64)),
    "px_free": (None, (c_void_p,)),
    "px_clone": (c_void_p, (c_void_p,)),
    "px_holders": (c_int, (c_void_p, c_uint32)),
    "px_salt": (c_uint32, (c_void_p, c_uint32, c_char_p, c_int)),
    "px_find": (c_uint64, (c_void_p, c_void_p, c_char_p, c_char_p, c_uint32, c_int)),
    "px_verify": (c_uint32, (c_void_p, c_uint32, c_uint32, c_char_p, c_uint32)),
    "px_insert": (
        c_uint32,
        (c_void_p, c_char_p, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
    ),
    "px_evict": (c_uint32, (c_void_p, c_uint32, c_void_p, c_uint32)),
    "px_withdraw": (
        c_uint32,
        (c_void_p, c_uint32, c_char_p, c_char_p, c_uint32, c_uint32, c_uint32, c_uint32),
    ),
    "px_stored": (
        c_uint32,
        (
            c_void_p,
            c_uint32,
            c_int,
            c_uint64,
            c_char_p,
            c_char_p,
            c_uint32,
            c_uint32,
            c_uint32,
        ),
    ),
    "px_stored_again": (c_uint32, (c_void_p, c_char_p, c_uint32, c_uint32, c_uint32)),
    "px_removed": (c_uint32, (c_void_p, c_char_p, c_uint32, c_uint32, c_uint32)),
    "px_expect": (
        c_uint32,
        (c_void_p, c_uint32, c_char_p, c_char_p, c_uint32, c_uint32, c_uint32, c_int),
    ),
    "px_clear": (c_uint32, (c_void_p, c_uint32, c_uint32)),
    "px_chain": (None, (c_uint64, c_char_p, c_uint32, c_int32, c_void_p)),
    "px_key": (c_uint64, (c_void_p, c_uint32)),
    "px_born": (c_uint32, (c_void_p, c_uint32)),
    "px_held": (c_uint32, (c_void_p, c_uint32, c_uint32)),
    "px_stats": (None, (c_void_p, c_void_p)),
    "px_check": (c_int, (c_void_p,)),
}


class Ask(ctypes.Structure):
    """As in `prefix.c`."""

    _fields_ = [("mask", c_void_p), ("out", c_void_p), ("masks", c_uint32), ("rows", c_uint32)]


Room = tuple[int, npt.NDArray[np.uint32], int, Any]
"""What one lookup writes into: holders, rows for them, the address of what is asked, and what that
points to."""


def _room(masks: tuple[int, ...], holders: int) -> Room:
    size = len(masks) * holders
    rows = np.zeros(max(1, size), dtype=np.uint32)
    mask = (c_uint32 * len(masks))(*masks)
    ask = Ask(ctypes.addressof(mask), rows.ctypes.data, len(masks), holders)
    return holders, rows[:size], ctypes.addressof(ask), (ask, mask)


@functools.cache
def functions() -> Any:
    """The library with its signatures told, or None where there is none."""
    found = library()
    if found is not None:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, arguments
    return found


@final
class CompiledTree:
    """Implements `Tree`. Owns its memory: freed with the object."""

    def __init__(
        self, block_size: int, *, remember: bool = False, hash_bits: int = 64, _of: Any = None
    ) -> None:
        self._c = functions()
        self.block_size = block_size
        self.holders = 0
        made = _of
        if made is None:
            made = self._c.px_new(block_size, remember, (1 << hash_bits) - 1)
        if not made:
            raise MemoryError("no memory for a prefix tree")
        self._tree = made
        self._keyed = block_size == 0
        self._find = self._c.px_find
        self._told = (c_uint64 * 2)()
        self._told_at = ctypes.addressof(self._told)
        """What an insert says of the last block; one thread writes."""
        self._rooms: dict[tuple[int, ...], Room] = {}
        """By masks. Whoever looks something up takes it out for as long as that takes: another thread that
        does the same meanwhile makes one for itself."""

    def __del__(self) -> None:
        tree, self._tree = getattr(self, "_tree", None), None
        if tree:
            self._c.px_free(tree)

    def ensure_holders(self, count: int) -> None:
        if count > self.holders:
            if not self._c.px_holders(self._tree, count):
                raise MemoryError(f"no memory for {count} holders")
            self.holders = count

    def root(self, digest: bytes, create: bool) -> int | None:
        found: int = self._c.px_salt(self._tree, 0, digest, create)
        if create and not found:
            self._changed(FULL)
        return found or None

    def _changed(self, told: int) -> int:
        """What a change returned. Where there was no memory for it, nothing has changed."""
        if told == FULL:
            raise MemoryError(f"no memory for more than {self.stats().blocks} blocks of prefixes")
        return told

    def insert(
        self, digest: bytes, data: bytes, n: int, holder: int, plane: int
    ) -> tuple[int, int, int]:
        slot = self._c.px_insert(self._tree, digest, data, n, holder, plane, self._told_at)
        return self._changed(slot), self._told[0], self._told[1]

    def find(
        self, digest: bytes, data: bytes, n: int, masks: tuple[int, ...], keyed: bool
    ) -> Found:
        room = self._rooms.pop(masks, None)
        if room is None or room[0] != self.holders:
            room = _room(masks, self.holders)
        told = self._find(self._tree, room[2], digest, data, n, keyed)
        reach = room[1].copy()
        self._rooms[masks] = room
        return Found(told, reach)

    def verify(self, slot: int, born: int, data: bytes, n: int) -> int:
        good: int = self._c.px_verify(self._tree, slot, born, data, n)
        return good

    def evict(self, most: int) -> list[int]:
        room = max(0, self.stats().blocks - most)
        if not room:
            return []
        keys = (c_uint64 * room)()
        gone = self._c.px_evict(self._tree, most, keys, room)
        return keys[:gone]

    def withdraw(self, root: int, data: bytes, n: int, skip: int, holder: int, plane: int) -> int:
        tokens, keys = (None, data) if self._keyed else (data, None)
        gone = self._c.px_withdraw(self._tree, root, tokens, keys, n, skip, holder, plane)
        return self._changed(gone)

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
        taken = self._c.px_stored(
            self._tree, root or 0, behind is not None, behind or 0, hashes, data, n, holder, plane
        )
        return self._changed(taken) != NIL

    def stored_again(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        return self._changed(self._c.px_stored_again(self._tree, hashes, n, holder, plane))

    def removed(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        return self._changed(self._c.px_removed(self._tree, hashes, n, holder, plane))

    def expect(self, root: int, data: bytes, n: int, holder: int) -> None:
        self._expect(root, data, n, holder, 1)

    def unexpect(self, root: int, data: bytes, n: int, holder: int) -> None:
        self._expect(root, data, n, holder, -1)

    def _expect(self, root: int, data: bytes, n: int, holder: int, by: int) -> None:
        tokens, keys = (None, data) if self._keyed else (data, None)
        self._changed(self._c.px_expect(self._tree, root, tokens, keys, n, holder, EXPECTED, by))

    def clear(self, holder: int, plane: int) -> None:
        self._changed(self._c.px_clear(self._tree, holder, plane))

    def key(self, slot: int) -> int:
        found: int = self._c.px_key(self._tree, slot)
        return found

    def born(self, slot: int) -> int:
        found: int = self._c.px_born(self._tree, slot)
        return found

    def held(self, holder: int, plane: int) -> int:
        found: int = self._c.px_held(self._tree, holder, plane)
        return found

    def stats(self) -> Stats:
        out = (c_uint64 * 6)()
        self._c.px_stats(self._tree, out)
        return Stats(*out[:5])

    def sets(self) -> int:
        out = (c_uint64 * 6)()
        self._c.px_stats(self._tree, out)
        return out[5]

    def clone(self) -> CompiledTree:
        made = CompiledTree(self.block_size, _of=self._c.px_clone(self._tree) or 0)
        made.holders = self.holders
        return made

    def check(self) -> str:
        return FAULTS[self._c.px_check(self._tree)]
