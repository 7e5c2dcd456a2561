"""That it follows the best of its experts, and what following costs."""

from __future__ import annotations

import pytest

from sage_llm_ops.kv_policy.eviction import eviction_policy
from sage_llm_ops.kv_policy.eviction.adaptive import EXPERTS, Adaptive
from tests.kv_policy.recorded import FILES, TRUTH, made_up, recorded, truth

FIVE = ("FIFO", "LRU", "LFU", "ARC", "S3FIFO")


@pytest.mark.skipif(not TRUTH.is_file(), reason="needs the reference results")
def test_close_to_the_best_of_five_in_every_cell_and_better_than_each_on_the_whole() -> None:
    misses: dict[str, list[float]] = {name: [] for name in (*FIVE, "adaptive")}
    behind = []
    for name in FILES:
        known, keys = truth()[name], recorded(name).keys
        for cell in known["sizes"].values():
            hits = eviction_policy("adaptive", cell["capacity"]).replay(keys)
            misses["adaptive"].append(1.0 - hits / len(keys))
            for policy in FIVE:
                misses[policy].append(1.0 - cell[policy]["own_hits"] / len(keys))
            behind.append(misses["adaptive"][-1] / min(misses[policy][-1] for policy in FIVE))
    assert sum(ratio <= 1.02 for ratio in behind) >= 0.75 * len(behind)
    assert max(behind) <= 1.12
    mean = {name: sum(found) / len(found) for name, found in misses.items()}
    assert mean.pop("adaptive") < min(mean.values())


@pytest.mark.parametrize("expert", EXPERTS)
def test_with_one_expert_it_is_that_expert(expert: str) -> None:
    keys = made_up().keys
    single = eviction_policy("adaptive", 80, experts=(expert,))
    assert single.replay(keys) == eviction_policy(expert, 80).replay(keys)


@pytest.mark.parametrize("expert", EXPERTS)
def test_a_take_over_costs_at_most_what_is_missing(expert: str) -> None:
    """As long as one leads: misses of the follower <= misses of the leader + blocks not taken over."""
    keys = made_up().keys
    for capacity in (7, 50, 200):
        policy = Adaptive(capacity)
        policy.replay(keys[:1500])
        (chosen,) = (e for e in policy._experts if e.policy.name == expert)
        policy._catch_up()
        policy._follow(chosen)
        ghost = eviction_policy(expert, capacity)
        ghost.replay(keys[:1500])
        debt, switches = sum(key not in policy for key in ghost), policy.switches
        missed = leader_missed = 0
        for key in keys[1500:4000]:
            missed += not policy.access(key)
            leader_missed += not ghost.access(key)
            if policy.switches > switches:
                break
            assert missed <= leader_missed + debt


def test_experts_that_hit_in_turns_do_not_lead_in_turns() -> None:
    """To and fro over the blocks, lru and lfu are equally good and each is ahead after its own hits;
    who follows whoever is ahead comes too late for both."""
    sweep = [*range(500), *range(499, -1, -1)] * 12
    policy = Adaptive(150, experts=("s3fifo", "lru", "lfu"))
    missed = len(sweep) - policy.replay(sweep)
    assert missed <= 1.12 * (len(sweep) - eviction_policy("lru", 150).replay(sweep))
    assert policy.switches <= 8
    policy.check_integrity()


def test_it_leaves_a_leader_that_falls_behind() -> None:
    """A loop larger than the cache is LRU's worst case and no trouble for S3-FIFO's first laps."""
    policy = Adaptive(50, experts=("lru", "s3fifo"))
    policy.replay([key % 80 for key in range(4000)])
    assert policy.leader == "s3fifo"
    assert policy.switches >= 1
    assert "follows s3fifo" in policy.select_victims(1).reason
    policy.check_integrity()
