"""Routings: spread, ties, determinism."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.fleet import Fleet
from sage_llm_ops.scheduler_ir import ROUTINGS
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.requests import Request, SamplingParams

NEEDS = ("m", "generate", "")
OFFER = Offer(1, 0.0, Job(Request(RequestId("a"), "m", b"", 1, SamplingParams()), 1))


def fleet_of(*slots: int) -> Fleet:
    fleet = Fleet()
    for n, size in enumerate(slots):
        fleet.join(WorkerId(f"w{n}"), "m")
        fleet.up(WorkerId(f"w{n}"), ("m",), size, 4096, ("generate",))
    return fleet


def burst(name: str, fleet: Fleet, n: int, *, release: bool = False) -> list[int]:
    routing = ROUTINGS[name]()
    rows = []
    for node in range(n):
        choice = routing.choose(OFFER, fleet, fleet.with_room(NEEDS))
        assert choice.row in fleet.with_room(NEEDS)
        fleet.reserve(NodeId(node), choice.row, 1)
        rows.append(choice.row)
        if release:
            fleet.release(NodeId(node))
    return rows


@pytest.mark.parametrize("name", sorted(ROUTINGS))
def test_two_thousand_over_eight_equal_workers(name: str) -> None:
    """Regression: a whole burst on one instance. Within 10 % of equal is the contract."""
    counts = Counter(burst(name, fleet_of(*[300] * 8), 2000))
    assert len(counts) == 8
    assert all(abs(count - 250) <= 25 for count in counts.values()), counts


def test_load_balanced_follows_the_size() -> None:
    assert Counter(burst("load_balanced", fleet_of(30, 10), 40)) == {0: 30, 1: 10}


def test_load_balanced_does_not_give_a_trickle_to_the_first_worker_for_ever() -> None:
    assert Counter(burst("load_balanced", fleet_of(4, 4, 4), 30, release=True)) == {
        0: 10,
        1: 10,
        2: 10,
    }


def test_round_robin_is_exact_and_skips_who_is_full() -> None:
    assert burst("round_robin", fleet_of(2, 1, 2), 5) == [0, 1, 2, 0, 2]


@pytest.mark.parametrize("name", sorted(ROUTINGS))
@given(slots=st.lists(st.integers(1, 5), min_size=1, max_size=8), n=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_ties_are_broken_the_same_way(name: str, slots: list[int], n: int) -> None:
    n = min(n, sum(slots))
    assert burst(name, fleet_of(*slots), n) == burst(name, fleet_of(*slots), n)


@pytest.mark.parametrize("name", sorted(ROUTINGS))
def test_the_cost_of_the_chosen_row_is_the_smallest(name: str) -> None:
    fleet = fleet_of(3, 3, 3)
    fleet.reserve(NodeId(99), 1, 1)
    rows = fleet.with_room(NEEDS)
    choice = ROUTINGS[name]().choose(OFFER, fleet, rows)
    assert choice.costs[rows.tolist().index(choice.row)] == choice.costs.min()
    assert choice.reason
