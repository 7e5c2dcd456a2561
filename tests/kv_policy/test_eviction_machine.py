"""A pool's owner that does anything it may, in any order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sage_llm_ops.kv_policy import PolicyContext
from sage_llm_ops.kv_policy.eviction import POLICIES, EvictionPolicy, Rules, eviction_policy

KEYS = st.integers(0, 30)
WEIGHTS = {"a": 1.0, "b": 2.5}


class Pool(RuleBasedStateMachine):
    """Keeps what it was told, to hold every decision against it."""

    policy_name = "lru"

    policy: EvictionPolicy
    resident: set[int]
    parents: dict[int, int]
    pins: dict[int, int]
    expires: dict[int, float]
    now = 0.0

    @initialize(capacity=st.integers(1, 12), closed=st.booleans(), tenants=st.booleans())
    def make(self, capacity: int, closed: bool, tenants: bool) -> None:
        rules = Rules(closed=closed, weights=WEIGHTS if tenants else None)
        self.policy = eviction_policy(self.policy_name, capacity, rules)
        self.closed = closed
        self.resident, self.parents, self.pins, self.expires = set(), {}, {}, {}

    def _blocked(self, key: int) -> bool:
        return key in self.pins or key in self.parents.values()

    def _gone(self, key: int) -> None:
        self.resident.remove(key)
        self.parents.pop(key, None)
        self.pins.pop(key, None)
        self.expires.pop(key, None)

    def _took(self, victims: tuple[Any, ...], wanted: int) -> None:
        assert len(set(victims)) == len(victims) <= wanted
        for key in victims:
            assert key in self.resident
            assert not self._blocked(key)
            self._gone(key)
        if len(victims) < wanted:
            assert all(self._blocked(key) for key in self.resident)

    @rule(key=KEYS, data=st.data(), tenant=st.sampled_from("ab"), lives=st.integers(0, 20))
    def look_up(self, key: int, data: st.DataObject, tenant: str, lives: int) -> None:
        """Hit or miss, as the contract has it."""
        policy = self.policy
        assert (key in policy) == (key in self.resident)
        if key in self.resident:
            policy.on_hit(key)
            return
        parent = data.draw(st.sampled_from([None, *sorted(self.resident)]))
        if parent is not None:
            policy.pin(parent)
            self.pins[parent] = self.pins.get(parent, 0) + 1
        if len(policy) >= policy.capacity:
            incoming = data.draw(st.sampled_from([key, None]))
            victims = policy.select_victims(1, incoming=incoming).victims
            self._took(victims, 1)
        if len(policy) < policy.capacity:
            expires = self.now + lives if lives else None
            policy.on_insert(key, parent=parent, tenant=tenant, expires=expires)
            self.resident.add(key)
            if parent is not None and self.closed:
                self.parents[key] = parent
            if expires is not None:
                self.expires[key] = expires
        if parent is not None:
            self.unpin_one(parent)

    @precondition(lambda self: self.resident)
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.resident)))
        self.policy.pin(key)
        self.pins[key] = self.pins.get(key, 0) + 1

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.unpin_one(data.draw(st.sampled_from(sorted(self.pins))))

    def unpin_one(self, key: int) -> None:
        self.policy.unpin(key)
        self.pins[key] -= 1
        if not self.pins[key]:
            del self.pins[key]

    @precondition(lambda self: self.resident)
    @rule(data=st.data(), lives=st.integers(-3, 20))
    def hint(self, data: st.DataObject, lives: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.resident)))
        if lives < 0:
            self.policy.expire(key, None)
            self.expires.pop(key, None)
        else:
            self.policy.expire(key, self.now + lives)
            self.expires[key] = self.now + lives

    @rule(n=st.integers(0, 6), later=st.integers(0, 10))
    def make_room(self, n: int, later: int) -> None:
        self.now += later
        victims = self.policy.select_victims(n, PolicyContext(now=self.now)).victims
        fresh = [self.expires.get(key, float("inf")) > self.now for key in victims]
        assert fresh == sorted(fresh) or self.closed  # the expired first; a parent when it is free
        self._took(victims, n)

    @precondition(lambda self: any(key not in self.parents.values() for key in self.resident))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        leaves = sorted(key for key in self.resident if key not in self.parents.values())
        key = data.draw(st.sampled_from(leaves))
        self.policy.on_remove(key)
        self._gone(key)

    @invariant()
    def whole(self) -> None:
        if hasattr(self, "resident"):
            self.policy.check_integrity()
            assert set(self.policy) == self.resident
            assert all(parent in self.resident for parent in self.parents.values())


@pytest.mark.parametrize("name", POLICIES)
def test_a_pool_under_rules(name: str) -> None:
    machine = type(f"Pool_{name}", (Pool,), {"policy_name": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=40))
