"""SIEVE as its paper draws it: one list, a bit a block, a hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.kv_policy.eviction import eviction_policy
from tests.kv_policy.recorded import made_up


class Drawn:
    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.blocks: list[int] = []
        self.used: dict[int, bool] = {}
        self.hand = 0

    def access(self, key: int) -> bool:
        if key in self.blocks:
            self.used[key] = True
            return True
        if len(self.blocks) == self.capacity:
            self.evict()
        self.blocks.append(key)
        self.used[key] = False
        return False

    def evict(self) -> None:
        while True:
            self.hand %= len(self.blocks)
            key = self.blocks[self.hand]
            if not self.used[key]:
                break
            self.used[key] = False
            self.hand += 1
        del self.blocks[self.hand]
        if self.hand == len(self.blocks):  # at the newest: around, before another one comes
            self.hand = 0


@given(keys=st.lists(st.integers(0, 25), max_size=300), capacity=st.integers(1, 12))
def test_two_queues_are_the_list_with_a_hand(keys: list[int], capacity: int) -> None:
    drawn, policy = Drawn(capacity), eviction_policy("sieve", capacity)
    assert [policy.access(key) for key in keys] == [drawn.access(key) for key in keys]
    assert set(policy) == set(drawn.blocks)


@pytest.mark.parametrize("capacity", [7, 60, 400])
def test_hits_are_those_of_libcachesim(capacity: int) -> None:
    theirs: Any = pytest.importorskip("libcachesim")
    cache, keys, hits = theirs.Sieve(capacity, hashpower=12), made_up().keys, 0
    request = theirs.Request()
    request.obj_size = 1
    for key in keys:
        request.obj_id = key
        hits += cache.get(request)
    assert eviction_policy("sieve", capacity).replay(keys) == hits
