"""What may not be evicted, and whose turn it is: rules that hold under every policy.

* A pinned block stays. Pins are counted.
* Closed prefixes: a block that others continue stays as long as one of them is here, so that no
  block outlives its parent. Blocked blocks are invisible to the policy: it takes the first of the
  others in its own order, and a block that is unblocked is back at its old place.
* Tenants: memory is taken from the tenant with most blocks for its weight among those that have
  an evictable one; the policy orders that tenant's blocks only. Nobody below a share loses a block
  to somebody above, and a tenant alone has the whole pool.
* An expired block goes before any other, if it is not blocked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

from sage_llm_ops.kv_policy.eviction.queues import GuardedQueue
from sage_llm_ops.types.errors import ConfigError, IntegrityError
from sage_llm_ops.types.kv import BlockKey


@dataclass(frozen=True, slots=True)
class Rules:
    """Given to a policy, they allow pins, TTLs, parents and tenants; without them it is faster."""

    closed: bool = False
    """No block outlives its parent."""
    weights: Mapping[str, float] | None = None
    """Shares of tenants, 1.0 for those not named; None: all blocks are one tenant's."""

    def __post_init__(self) -> None:
        check_weights(self.weights or {})


def check_weights(weights: Mapping[str, float]) -> None:
    """Weights divide a share, so each is positive."""
    for tenant, weight in weights.items():
        if not 0.0 < weight < float("inf"):
            raise ConfigError(f"tenant {tenant!r} has the weight {weight}; give one above 0")


@final
class Guard:
    """Knows the blocks of one policy, and nothing of their order."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.turn = ""
        self._weights: Mapping[str, float] = rules.weights or {}
        self._queues: list[GuardedQueue] = []
        self._pins: dict[BlockKey, int] = {}
        self._parents: dict[BlockKey, BlockKey] = {}
        self._children: dict[BlockKey, int] = {}
        self._tenants: dict[BlockKey, str] = {}
        self._used: dict[str, int] = {}
        self._expiring = self.queue(by_tenant=False)

    def queue(self, *, by_tenant: bool = True) -> GuardedQueue:
        """A queue that obeys."""
        made = GuardedQueue(self, by_tenant=by_tenant)
        self._queues.append(made)
        return made

    def blocked(self, key: BlockKey) -> bool:
        return key in self._pins or key in self._children

    def tenant(self, key: BlockKey) -> str:
        return self._tenants.get(key, "")

    def children(self, key: BlockKey) -> int:
        """Resident blocks that continue it."""
        return self._children.get(key, 0)

    def pinned(self) -> int:
        """Blocks under at least one pin."""
        return len(self._pins)

    def interior(self) -> int:
        """Blocks that others continue."""
        return len(self._children)

    def add(self, key: BlockKey, parent: BlockKey | None, tenant: str) -> None:
        """A block that is about to enter the policy. Its parent is here already."""
        if parent is not None and self.rules.closed:
            self._parents[key] = parent
            self._children[parent] = self._children.get(parent, 0) + 1
        if self.rules.weights is not None and tenant:
            self._tenants[key] = tenant
        counted = self.tenant(key)
        self._used[counted] = self._used.get(counted, 0) + 1

    def forget(self, key: BlockKey) -> None:
        """A block that left the policy; its parent may be free now."""
        tenant = self.tenant(key)
        self._used[tenant] -= 1
        if not self._used[tenant]:
            del self._used[tenant]
        if key in self._expiring:
            del self._expiring[key]
        self._tenants.pop(key, None)
        self._pins.pop(key, None)
        parent = self._parents.pop(key, None)
        if parent is not None:
            self._children[parent] -= 1
            if not self._children[parent]:
                del self._children[parent]
                self._unblocked(parent)

    def pin(self, key: BlockKey) -> None:
        self._pins[key] = self._pins.get(key, 0) + 1

    def unpin(self, key: BlockKey) -> None:
        count = self._pins.get(key)
        if count is None:
            raise IntegrityError(f"block {key!r} is unpinned once more than it was pinned")
        if count > 1:
            self._pins[key] = count - 1
            return
        del self._pins[key]
        self._unblocked(key)

    def expire(self, key: BlockKey, at: float | None) -> None:
        """The block is worth nothing from then on; None takes that back."""
        if at is not None:
            self._expiring.place(key, None, at)
        elif key in self._expiring:
            del self._expiring[key]

    def expired(self, now: float) -> BlockKey | None:
        """An evictable block whose time is over."""
        try:
            return self._expiring.first() if self._expiring.first_order() <= now else None
        except KeyError:
            return None

    def weigh(self, weights: Mapping[str, float]) -> None:
        """New weights for all tenants."""
        if self.rules.weights is None:
            raise ConfigError("weights need a policy made with Rules(weights={...})")
        check_weights(weights)
        self._weights = weights

    def turns(self) -> Iterator[str]:
        """Tenants, the one most over its share first; the caller stops at the first that can give.

        O(tenants) for each step: there are few of them beside the blocks.
        """
        if len(self._used) <= 1:
            yield from list(self._used)
            return
        left = {tenant: n / self._weights.get(tenant, 1.0) for tenant, n in self._used.items()}
        while left:
            most = max(left, key=lambda tenant: (left[tenant], tenant))
            del left[most]
            yield most

    def check_integrity(self, resident: set[BlockKey]) -> None:
        """Compare with the blocks that the policy holds."""
        for name, known in (
            ("pinned", self._pins),
            ("a parent", self._children),
            ("a child", self._parents),
            ("a tenant's", self._tenants),
        ):
            if not known.keys() <= resident:
                raise IntegrityError(f"a block is {name} that is not resident")
        if sum(self._used.values()) != len(resident):
            raise IntegrityError(f"tenants use {self._used}, resident are {len(resident)} blocks")
        counted: dict[BlockKey, int] = {}
        for parent in self._parents.values():
            counted[parent] = counted.get(parent, 0) + 1
        if counted != self._children:
            raise IntegrityError("counts of children differ from the parents that are known")
        for queue in self._queues:
            queue.check_integrity()

    def _unblocked(self, key: BlockKey) -> None:
        if not self.blocked(key):
            for queue in self._queues:
                queue.unblocked(key)
