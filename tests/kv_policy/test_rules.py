"""Policies under rules, against models that search lists; and rules that bind nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.kv_policy import AccessHistory, PolicyContext, PoolStats, TenantStats
from sage_llm_ops.kv_policy.eviction import POLICIES, Rules, eviction_policy
from sage_llm_ops.kv_policy.eviction.replay import Hits, replay_closed
from sage_llm_ops.types.errors import ConfigError, IntegrityError
from tests.kv_policy.recorded import made_up
from tests.kv_policy.reference import MODELS

streams = st.lists(st.integers(0, 25), max_size=200)
capacities = st.integers(1, 16)


@pytest.mark.parametrize("name", POLICIES)
@given(keys=streams, capacity=capacities)
def test_hits_are_those_of_the_model(name: str, keys: list[int], capacity: int) -> None:
    model, policy = MODELS[name](capacity), eviction_policy(name, capacity)
    assert [policy.access(key) for key in keys] == [model.access(key) for key in keys]
    assert set(policy) == set(model.resident())
    policy.check_integrity()
    assert eviction_policy(name, capacity).replay(keys) == sum(
        map(eviction_policy(name, capacity).access, keys)
    )


@pytest.mark.parametrize("name", POLICIES)
@given(keys=streams, capacity=capacities)
def test_rules_that_bind_nothing_change_nothing(name: str, keys: list[int], capacity: int) -> None:
    free, ruled = eviction_policy(name, capacity), eviction_policy(name, capacity, Rules())
    assert [free.access(key) for key in keys] == [ruled.access(key) for key in keys]
    assert set(free) == set(ruled)
    ruled.check_integrity()


class ClosedModel:
    """The requests of `replay_closed` over a slow model: a block may go if no other continues it and
    the running request does not hold it."""

    def __init__(self, name: str, capacity: int) -> None:
        self.parents: dict[Any, Any] = {}
        self.walked: list[Any] = []
        self.model = MODELS[name](capacity, self.may_go)

    def may_go(self, key: Any) -> bool:
        if key in self.walked:
            return False
        return all(self.parents.get(other) != key for other in self.model.resident())

    def request(self, blocks: list[Any]) -> list[bool]:
        hits: list[bool] = []
        self.walked = []
        for key in blocks:
            if key not in self.model.resident():
                self.parents[key] = self.walked[-1] if self.walked else None
            hit = self.model.access(key)
            if hit is None:
                break
            hits.append(hit)
            self.walked.append(key)
        self.walked = []
        return hits + [False] * (len(blocks) - len(hits))


def _closed(name: str, capacity: int, requests: list[list[Any]]) -> None:
    policy, model = eviction_policy(name, capacity, Rules(closed=True)), ClosedModel(name, capacity)
    for blocks in requests:
        before, expected = Hits(), Hits()
        replay_closed(policy, blocks, before)
        expected.add(model.request(blocks))
        assert before == expected
        assert set(policy) == set(model.model.resident())
        assert before.hits == before.prefix_hits  # what is here is reachable
    policy.check_integrity()


@st.composite
def _chains(draw: st.DrawFn) -> list[list[tuple[int, ...]]]:
    """Prefixes of a small tree: a block is named by the whole path to it."""
    paths = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=40))
    return [[tuple(path[: n + 1]) for n in range(len(path))] for path in paths]


@pytest.mark.parametrize("name", POLICIES)
@given(requests=_chains(), capacity=capacities)
def test_closed_prefixes_are_those_of_the_model(
    name: str, requests: list[list[Any]], capacity: int
) -> None:
    _closed(name, capacity, requests)


@pytest.mark.parametrize("name", POLICIES)
def test_closed_prefixes_on_a_workload(name: str) -> None:
    _closed(name, 60, [list(blocks) for blocks in made_up(120).requests])


def _filled(name: str, capacity: int, **rules: Any) -> Any:
    policy = eviction_policy(name, capacity, Rules(**rules))
    for key in range(capacity):
        policy.on_insert(key)
    return policy


@pytest.mark.parametrize("name", POLICIES)
def test_pins_hold_and_the_reason_says_so(name: str) -> None:
    policy = _filled(name, 5)
    for key in (0, 1, 1, 2, 3):
        policy.pin(key)
    decision = policy.select_victims(3)
    assert decision.victims == (4,)
    assert "1 of 3" in decision.reason
    assert "4 pinned" in decision.reason
    policy.unpin(1)
    assert policy.select_victims(1).victims == ()
    policy.unpin(1)
    assert policy.select_victims(1).victims == (1,)


@pytest.mark.parametrize("name", POLICIES)
def test_what_expired_goes_first_unless_it_is_pinned(name: str) -> None:
    policy = _filled(name, 6)
    policy.on_hit(5)  # no policy would take it next
    policy.expire(4, 10.0)
    policy.expire(5, 8.0)
    policy.expire(3, 1.0)
    policy.expire(3, None)
    policy.pin(5)
    decision = policy.select_victims(1, PolicyContext(now=20.0))
    assert decision.victims == (4,)
    assert "1 expired" in decision.reason
    assert policy.select_victims(1, PolicyContext(now=20.0)).victims != (5,)
    policy.unpin(5)
    assert 5 not in policy.select_victims(1, PolicyContext(now=7.0)).victims
    assert policy.select_victims(1, PolicyContext(now=8.0)).victims == (5,)


@pytest.mark.parametrize("name", POLICIES)
def test_memory_is_taken_from_who_is_most_over_the_share(name: str) -> None:
    policy = eviction_policy(name, 12, Rules(weights={"small": 1.0, "large": 3.0}))
    for key in range(12):
        policy.on_insert(key, tenant="small" if key < 6 else "large")
    assert set(policy.select_victims(3).victims) <= set(range(6))
    # 3 of small at weight 1, 6 of large at weight 3: still small's turn, then they are equal.
    assert set(policy.select_victims(1).victims) <= set(range(6))
    for key in [key for key in policy if key < 6]:
        policy.pin(key)
    assert set(policy.select_victims(2).victims) <= set(range(6, 12))
    shares = {"small": TenantStats(weight=1.0), "large": TenantStats(weight=0.1)}
    for key in [key for key in policy if key < 6]:
        policy.unpin(key)
    victims = policy.select_victims(3, PolicyContext(tenant_stats=shares)).victims
    assert set(victims) <= set(range(6, 12))
    policy.check_integrity()


def test_the_reason_tells_what_the_context_knows() -> None:
    policy, history = _filled("lru", 3), AccessHistory()
    for key in range(3):
        history.note(key, 10.0 * key)
    context = PolicyContext(
        now=42.0, pool_stats={"gpu": PoolStats(capacity=3, used=3)}, access_history=history
    )
    decision = policy.select_victims(2, context)
    assert decision.victims == (0, 1)
    assert decision.reason == "lru: least recently used; gpu 3 of 3; unused for 32.0 s or longer"


@pytest.mark.parametrize("name", POLICIES)
def test_wrong_use_is_refused_by_name(name: str) -> None:
    plain = eviction_policy(name, 2)
    plain.on_insert(1)
    for act, words in (
        (lambda: plain.on_insert(1), "inserted twice"),
        (lambda: plain.on_hit(9), "not resident"),
        (lambda: plain.on_remove(9), "not resident"),
        (lambda: plain.on_insert(2) or plain.on_insert(3), "call select_victims first"),
    ):
        with pytest.raises(IntegrityError, match=words):
            act()
    for act in (
        lambda: plain.pin(1),
        lambda: plain.expire(1, 3.0),
        lambda: plain.select_victims(1, PolicyContext(tenant_stats={"a": TenantStats()})),
    ):
        with pytest.raises(ConfigError, match=r"without rules.*Rules"):
            act()
    plain.on_remove(1)
    with pytest.raises(ConfigError, match="cannot honour a parent"):
        plain.on_insert(3, parent=2)
    closed = eviction_policy(name, 3, Rules(closed=True))
    with pytest.raises(IntegrityError, match="insert the parent first"):
        closed.on_insert(2, parent=1)
    closed.on_insert(1)
    closed.on_insert(2, parent=1)
    with pytest.raises(IntegrityError, match="before the 1 that continue it"):
        closed.on_remove(1)
    with pytest.raises(IntegrityError, match="once more"):
        closed.unpin(1)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: eviction_policy("lur", 3), "did you mean 'lru'"),
        (lambda: eviction_policy("lru", 0), "capacity 0"),
        (lambda: eviction_policy("lru", 3, warm_up="full"), "warm_up"),
        (lambda: eviction_policy("s3fifo", 3, warm_up="2024"), "known: full, paper"),
        (lambda: eviction_policy("adaptive", 3, experts=["lru", "lru"]), "each once"),
        (lambda: eviction_policy("adaptive", 3, experts=["mru"]), "known: arc"),
        (lambda: Rules(weights={"a": 0.0}), "'a' has the weight 0.0"),
    ],
)
def test_options_that_cannot_be_obeyed(act: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        act()
