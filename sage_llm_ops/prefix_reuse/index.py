"""Which holder has how much of a prompt.

    index = PrefixReuseIndex(block_size=16)
    index.insert(tokens, "w0")
    index.lookup(more_tokens).best()          # PrefixHit(matched_length=..., holder="w0", ...)

One thread writes. With the tree in C a lookup is one cut, also on other threads; whoever wants several
answers from the same cut, or has the tree in Python, looks things up in a `snapshot` that the writer
made. Memory is bounded by `max_blocks`: the least recently inserted blocks go, those that nothing
follows first, so no block is ever left that cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sage_llm_ops.prefix_reuse.base import (
    ANY,
    PLANES,
    TIERS,
    Found,
    Tree,
)
from sage_llm_ops.prefix_reuse.compiled import CompiledTree, functions
from sage_llm_ops.prefix_reuse.found import PrefixMatch
from sage_llm_ops.prefix_reuse.hashing import NO_SALT, Tokens, as_keys, as_tokens, block_keys
from sage_llm_ops.prefix_reuse.keys import digest, root_key
from sage_llm_ops.prefix_reuse.tree import PythonTree
from sage_llm_ops.types.errors import CapabilityError, ConfigError, IntegrityError, UnknownName
from sage_llm_ops.types.kv import Tier
from sage_llm_ops.types.prefix import PrefixEntry, PrefixHit, Salt

DEFAULT_MAX_BLOCKS = 1 << 20
"""About 110 MB at 16 tokens a block, 180 MB at 32."""

_SALTS = 4096
"""Digests of salts that are kept; making one takes longer than a lookup."""


def plane_of(tier: Tier) -> int:
    """The plane of a tier."""
    try:
        return TIERS.index(tier)
    except ValueError:
        raise UnknownName("tier", str(tier), [str(known) for known in TIERS]) from None


class PrefixReuseIndex:
    """Blocks of one size. `block_size=0`: of keys, as traces have them, 8 bytes a block.

    `remember`: blocks that nobody has any more stay until memory is short, so that `known` tells how
    much an unbounded cache would have had. `hash_bits` below 64 is for tests that want collisions;
    `compiled=False` asks for the tree in Python.
    """

    def __init__(
        self,
        block_size: int = 16,
        *,
        max_blocks: int = DEFAULT_MAX_BLOCKS,
        remember: bool = False,
        max_tokens: int | None = None,
        hash_bits: int = 64,
        compiled: bool | None = None,
    ) -> None:
        if not 0 <= block_size <= 4096:
            raise ConfigError(f"block_size={block_size} must be 1 to 4096, or 0 for keys")
        if not 1 <= max_blocks < 1 << 31:
            raise ConfigError(f"max_blocks={max_blocks} must be between 1 and 2147483647")
        if not 1 <= hash_bits <= 64:
            raise ConfigError(f"hash_bits={hash_bits} must be 1 to 64")
        if compiled is None:
            compiled = functions() is not None
        elif compiled and functions() is None:
            raise CapabilityError("there is no compiled prefix index here; see sage-llm-ops doctor")
        kind: type[CompiledTree] | type[PythonTree] = CompiledTree if compiled else PythonTree
        self.tree: Tree = kind(block_size, remember=remember, hash_bits=hash_bits)
        self.block_size = block_size
        self.unit = block_size or 1
        """Tokens a block; where blocks are keys, one."""
        self.width = 4 * block_size or 8
        """Bytes a block."""
        self.max_blocks, self.max_tokens, self.hash_bits = max_blocks, max_tokens, hash_bits
        self.frozen = False
        """A snapshot is."""
        self.names: list[str] = []
        """Holders by number; empty where a number is free."""
        self.numbers: dict[str, int] = {}
        self._free: list[int] = []
        self._entries: dict[tuple[int, int], PrefixEntry] = {}
        """By slot and birth, of those that came with blocks or metadata."""
        self._digests: dict[Salt, bytes] = {}
        self._most = 0
        """There are no more blocks than that: counting them costs as much as inserting some."""

    # -- what is there ------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.tree.stats().blocks

    def blocks_of(self, holder: str, tier: Tier = Tier.GPU) -> int:
        """How many blocks a holder has."""
        return self.tree.held(self._number(holder), plane_of(tier))

    def lookup(
        self, tokens: Tokens, *, salt: Salt = NO_SALT, tiers: Iterable[Tier] | None = None
    ) -> PrefixMatch:
        """How much of the prompt each holder has, in any of `tiers` (all of them, and what is
        expected, where none are named). In an index of keys `tokens` are keys, as a buffer."""
        data = self._data(tokens)
        mask = ANY if tiers is None else sum({1 << plane_of(tier) for tier in tiers})
        keyed = not self.block_size
        return PrefixMatch(self, self.find(data, salt, (mask,), keyed), data, salt, keyed)

    def lookup_keys(self, keys: bytes | Iterable[int], *, salt: Salt = NO_SALT) -> PrefixMatch:
        """The same where the block keys are made already (`block_keys`). Tokens are not compared:
        `PrefixMatcher.verify` does that with a hit."""
        keys = as_keys(keys)
        return PrefixMatch(self, self.find(keys, salt, (ANY,), True), keys, salt, True)

    def keys(self, tokens: Tokens, *, salt: Salt = NO_SALT) -> list[int]:
        """Keys of the prompt's whole blocks, as this index makes them."""
        data = self._data(tokens)
        if not self.block_size:
            given: list[int] = np.frombuffer(data, dtype="<u8").tolist()
            return given
        return block_keys(data, self.block_size, salt, hash_bits=self.hash_bits)

    def verify(self, hit: PrefixHit, tokens: Tokens) -> int:
        """Leading tokens of a hit's path that are these; see `PrefixMatcher`."""
        if hit.entry is None or not self.block_size:
            return 0
        slot, born = hit.entry.entry_id >> 32, hit.entry.entry_id & 0xFFFFFFFF
        blocks = hit.entry.token_length // self.unit
        data = self._data(tokens)
        if len(data) // self.width < blocks:
            return 0
        return min(hit.matched_length, self.tree.verify(slot, born, data, blocks) * self.unit)

    def knows(self, hit: PrefixHit) -> bool:
        """Whether the prefix of a hit is still there."""
        if hit.entry is None:
            return False
        return self.tree.born(hit.entry.entry_id >> 32) == hit.entry.entry_id & 0xFFFFFFFF

    # -- changes ------------------------------------------------------------------------------

    def insert(
        self,
        tokens: Tokens,
        holder: str,
        *,
        salt: Salt = NO_SALT,
        tier: Tier = Tier.GPU,
        kv_block_ids: Iterable[int] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> PrefixEntry:
        """The holder has the prompt's whole blocks."""
        self._writable()
        data = self._data(tokens)
        n, plane = len(data) // self.width, plane_of(tier)
        number = self.add(holder)
        if not n:
            return PrefixEntry(0, root_key(salt), 0)
        slot, born, key = self.tree.insert(self.digest(salt), data, n, number, plane)
        made = PrefixEntry(
            slot << 32 | born, key, n * self.unit, tuple(kv_block_ids), dict(metadata or {})
        )
        if made.kv_block_ids or made.metadata:
            self._remember((slot, born), made)
        self._most += n
        if self._most > self.max_blocks:
            self.shrink()
        return made

    def invalidate(
        self,
        holder: str,
        tokens: Tokens | None = None,
        *,
        keep: int = 0,
        salt: Salt = NO_SALT,
        tier: Tier | None = None,
    ) -> int:
        """The holder does not have this prompt any more, but for its first `keep` tokens; without
        tokens it has nothing, and without `tier` in none. Blocks that it had."""
        self._writable()
        number = self._number(holder)
        planes = range(PLANES) if tier is None else (plane_of(tier),)
        if tokens is None:
            gone = sum(self.tree.held(number, plane) for plane in planes)
            for plane in planes:
                self.tree.clear(number, plane)
            return gone
        data = self._data(tokens)
        root = self.tree.root(self.digest(salt), False)
        n, skip = len(data) // self.width, -(-keep // self.unit)
        if root is None or n <= skip:
            return 0
        gone = 0
        for plane in planes:
            root = self.tree.root(self.digest(salt), False)
            if root is not None:
                gone += self.tree.withdraw(root, data, n, skip, number, plane)
        return gone

    def evict_lru(self, count: int = 1) -> list[int]:
        """Forget the `count` least recently inserted blocks that nothing follows; their keys."""
        self._writable()
        return self.tree.evict(max(0, len(self) - count))

    def shrink(self) -> list[int]:
        """Evict what is beyond `max_blocks`."""
        self._writable()
        gone = self.tree.evict(self.max_blocks)
        self._most = len(self)
        return gone

    # -- holders ------------------------------------------------------------------------------

    def add(self, holder: str) -> int:
        """The number of a holder, given at its first mention."""
        number = self.numbers.get(holder)
        if number is None:
            self._writable()
            if not holder:
                raise ConfigError(
                    "a prefix holder without a name: name the worker that has the blocks"
                )
            if self._free:
                number = self._free.pop()
                self.names[number] = holder
            else:
                number = len(self.names)
                self.tree.ensure_holders(number + 1)
                self.names.append(holder)
            self.numbers[holder] = number
        return number

    def remove(self, holder: str) -> int:
        """It is gone; blocks that it had. In time proportional to them."""
        gone = self.invalidate(holder)
        number = self.numbers.pop(holder)
        self.names[number] = ""
        self._free.append(number)
        return gone

    def _number(self, holder: str) -> int:
        number = self.numbers.get(holder)
        if number is None:
            raise UnknownName("prefix holder", holder, self.numbers)
        return number

    # -- whole --------------------------------------------------------------------------------

    def snapshot(self) -> PrefixReuseIndex:
        """A copy that stays as it is, for other threads to look things up in. The writer makes it."""
        made = PrefixReuseIndex.__new__(PrefixReuseIndex)
        made.__dict__.update(self.__dict__)
        made.tree, made.frozen = self.tree.clone(), True
        made.names, made.numbers = list(self.names), dict(self.numbers)
        made._entries, made._digests = dict(self._entries), dict(self._digests)
        made._free = list(self._free)
        return made

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where blocks, holders and order contradict each other."""
        fault = self.tree.check()
        if fault:
            raise IntegrityError(f"prefix index: {fault}")
        if len(self) > self.max_blocks:
            raise IntegrityError(f"prefix index: {len(self)} blocks, at most {self.max_blocks}")
        named = {name: number for number, name in enumerate(self.names) if name}
        if named != self.numbers:
            raise IntegrityError("prefix index: holders' names and numbers differ")

    # -- inside -------------------------------------------------------------------------------

    def _writable(self) -> None:
        if self.frozen:
            raise ConfigError("a snapshot of a prefix index cannot be changed: change its original")

    def _data(self, tokens: Any) -> bytes:
        if self.block_size:
            return as_tokens(tokens, self.max_tokens)
        return as_keys(tokens)

    def digest(self, salt: Salt) -> bytes:
        """What stands for a salt in the tree."""
        found = self._digests.get(salt)
        if found is None:
            if len(self._digests) >= _SALTS:
                self._digests.clear()
            found = self._digests[salt] = digest(salt)
        return found

    def find(
        self, data: bytes, salt: Salt, masks: tuple[int, ...], keyed: bool, n: int | None = None
    ) -> Found:
        """`lookup` for those who know planes: of a checked buffer, its first n blocks."""
        if n is None:
            n = len(data) // (8 if keyed else self.width)
        return self.tree.find(self.digest(salt), data, n, masks, keyed)

    def entry(self, slot: int, blocks: int) -> PrefixEntry:
        """The prefix that ends at a slot: as it was inserted, or by its name alone."""
        identity = (slot, self.tree.born(slot))
        found = self._entries.get(identity)
        if found is not None:
            return found
        return PrefixEntry(identity[0] << 32 | identity[1], self.tree.key(slot), blocks * self.unit)

    def _remember(self, identity: tuple[int, int], entry: PrefixEntry) -> None:
        self._entries[identity] = entry
        if len(self._entries) > 2 * len(self) + 64:
            self._entries = {
                place: kept
                for place, kept in self._entries.items()
                if self.tree.born(place[0]) == place[1]
            }
