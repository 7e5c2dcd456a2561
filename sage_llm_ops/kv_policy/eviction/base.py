"""The contract of an eviction policy.

Called by the owner of a pool, from one thread, for every block it looks up, fills or frees. Nothing
here blocks or reads a clock. A policy holds keys, never bytes: the owner frees what is chosen.

    hit     on_hit(key)
    miss    victims = select_victims(1, incoming=key), if the pool is full; then on_insert(key)
    freed   on_remove(key): the block left for another reason (invalidated, its engine died)

`select_victims` commits: its victims have left the policy when it returns. Policies that remember
what they evicted (arc, s3fifo, lirs, adaptive) learn from `incoming`, the block that room is made for;
without it they learn when it is inserted, one eviction late.

A policy made without `Rules` is exactly what the literature defines. Rules (guard.py) take blocks
out of its sight and change nothing in its order; a policy under rules that bind nothing decides as
one without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NoReturn

from sage_llm_ops.kv_policy.context import EvictionDecision, PolicyContext
from sage_llm_ops.kv_policy.eviction.guard import Guard, Rules
from sage_llm_ops.types.errors import ConfigError, IntegrityError
from sage_llm_ops.types.kv import BlockKey


class EvictionPolicy(ABC):
    """Which of the resident blocks goes next. The pool holds at most `capacity` blocks."""

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        if capacity < 1:
            raise ConfigError(f"{self.name}: capacity {capacity} blocks; at least 1 is needed")
        self.capacity = capacity
        self._guard = Guard(rules) if rules is not None else None

    # What a policy is made of. Unchecked and fast: the verbs below and `replay` call them.

    @abstractmethod
    def _touch(self, key: BlockKey) -> bool:
        """If the block is here, count the access."""

    @abstractmethod
    def _insert(self, key: BlockKey) -> None:
        """A block that is not here comes in; there is room."""

    @abstractmethod
    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        """Choose a block and let it go; `KeyError` where none is evictable."""

    @abstractmethod
    def _forget(self, key: BlockKey) -> None:
        """A block that is here leaves, and is not remembered."""

    @abstractmethod
    def _state(self) -> str:
        """What the next choice rests on, in a few words."""

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[BlockKey]: ...

    @abstractmethod
    def _check(self) -> None:
        """The policy's own invariants."""

    def _queue(self) -> Any:
        """A queue as the rules want it: both kinds know what the policies use of `OrderedDict`."""
        return OrderedDict() if self._guard is None else self._guard.queue()

    # Verbs.

    def on_hit(self, key: BlockKey) -> None:
        """A resident block was used."""
        if not self._touch(key):
            raise IntegrityError(f"{self.name}: hit on block {key!r}, which is not resident")

    def on_insert(
        self,
        key: BlockKey,
        *,
        parent: BlockKey | None = None,
        tenant: str = "",
        expires: float | None = None,
    ) -> None:
        """A block came in. Its parent is the block before it in the prefix, and is resident."""
        if key in self:
            raise IntegrityError(f"{self.name}: block {key!r} was inserted twice")
        if len(self) >= self.capacity:
            raise IntegrityError(
                f"{self.name}: no room for block {key!r} among {len(self)} of {self.capacity}; "
                "call select_victims first"
            )
        guard = self._guard
        if guard is not None:
            if parent is not None and guard.rules.closed and parent not in self:
                raise IntegrityError(
                    f"{self.name}: block {key!r} continues {parent!r}, which is not resident; "
                    "insert the parent first and pin it"
                )
            guard.add(key, parent, tenant)
        elif parent is not None or tenant or expires is not None:
            self._refuse("a parent, tenant or expiry")
        self._insert(key)
        if expires is not None and guard is not None:
            guard.expire(key, expires)

    def on_remove(self, key: BlockKey) -> None:
        """A resident block left without being chosen. Pins on it end."""
        if key not in self:
            raise IntegrityError(f"{self.name}: block {key!r} was removed and is not resident")
        guard = self._guard
        if guard is not None and (count := guard.children(key)):
            raise IntegrityError(
                f"{self.name}: block {key!r} was removed before the {count} that continue it; "
                "remove those first"
            )
        self._forget(key)
        if guard is not None:
            guard.forget(key)

    def select_victims(
        self, n: int, context: PolicyContext | None = None, *, incoming: BlockKey | None = None
    ) -> EvictionDecision:
        """Up to `n` blocks that leave now, a child before its parent; the reason says why fewer."""
        guard = self._guard
        now = None if context is None else context.now
        if context is not None and context.tenant_stats:
            self._guarded("tenant weights").weigh(
                {t: stats.weight for t, stats in context.tenant_stats.items()}
            )
        victims: list[BlockKey] = []
        expired = 0
        while len(victims) < n:
            if guard is not None and now is not None:
                key = guard.expired(now)
                if key is not None:
                    self._forget(key)
                    guard.forget(key)
                    victims.append(key)
                    expired += 1
                    continue
            try:
                victims.append(self._choose(incoming))
            except KeyError:
                break
        reason = self._reason(n, len(victims), expired)
        if context is not None:
            reason += context.told(victims)
        return EvictionDecision(tuple(victims), reason)

    def pin(self, key: BlockKey) -> None:
        """The block stays until it is unpinned as often as it was pinned."""
        if key not in self:
            raise IntegrityError(f"{self.name}: block {key!r} was pinned and is not resident")
        self._guarded("a pin").pin(key)

    def unpin(self, key: BlockKey) -> None:
        """Take one pin away."""
        self._guarded("a pin").unpin(key)

    def expire(self, key: BlockKey, at: float | None) -> None:
        """A hint, by `LifetimePredictor` or an engine: from `at` on the block is worth nothing."""
        if key not in self:
            raise IntegrityError(f"{self.name}: block {key!r} is to expire and is not resident")
        self._guarded("an expiry").expire(key, at)

    def access(self, key: BlockKey) -> bool:
        """Hit, or miss and insert at once if a block can be found to go; True where it was a hit."""
        if self._touch(key):
            return True
        full = len(self) >= self.capacity
        if self._guard is None:
            if full:
                self._evict(key)
            self._insert(key)
            return False
        if full:
            try:
                self._choose(key)
            except KeyError:
                return False
        self.on_insert(key)
        return False

    def replay(self, keys: Iterable[BlockKey]) -> int:
        """Hits of a stream of accesses, as `access` counts them; the fast way."""
        touch, insert, evict = self._touch, self._insert, self._evict
        if self._guard is not None:
            return sum(map(self.access, keys))
        hits = 0
        room = self.capacity - len(self)
        for key in keys:
            if touch(key):
                hits += 1
                continue
            if room:
                room -= 1
            else:
                evict(key)
            insert(key)
        return hits

    def check_integrity(self) -> None:
        """Raises `IntegrityError`."""
        resident = set(self)
        if not len(resident) == len(self) <= self.capacity:
            raise IntegrityError(
                f"{self.name}: {len(resident)} blocks, counted {len(self)}, room for {self.capacity}"
            )
        self._check()
        if self._guard is not None:
            self._guard.check_integrity(resident)

    def _choose(self, incoming: BlockKey | None) -> BlockKey:
        guard = self._guard
        if guard is None:
            return self._evict(incoming)
        for tenant in guard.turns():
            guard.turn = tenant
            try:
                key = self._evict(incoming)
            except KeyError:
                continue
            guard.forget(key)
            return key
        raise KeyError("no evictable block")

    def _reason(self, wanted: int, found: int, expired: int) -> str:
        reason = f"{self.name}: {self._state()}"
        if expired:
            reason += f"; {expired} expired"
        if found < wanted:
            reason += f"; {found} of {wanted}, {len(self)} resident"
            if self._guard is not None:
                reason += f", {self._guard.pinned()} pinned, {self._guard.interior()} continued"
        return reason

    def _guarded(self, what: str) -> Guard:
        if self._guard is None:
            self._refuse(what)
        return self._guard

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"{self.name} was made without rules and cannot honour {what}; give it Rules()"
        )
