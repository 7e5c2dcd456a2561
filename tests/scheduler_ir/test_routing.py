"""Routings: spread, ties, determinism."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import Any

import numpy as np
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


def offer_of(number: int, **fields: Any) -> Offer:
    hits = fields.pop("hits", None)
    length, shared = fields.pop("n_prompt", 100), fields.pop("shared", 0)
    request = Request(RequestId(f"r{number}"), "m", b"", length, SamplingParams(), **fields)
    return Offer(number, 0.0, Job(request, number), hits, shared=shared)


def fleet_of(*slots: int) -> Fleet:
    fleet = Fleet()
    for n, size in enumerate(slots):
        fleet.join(WorkerId(f"w{n}"), "m")
        fleet.up(WorkerId(f"w{n}"), ("m",), size, 4096, ("generate",))
    return fleet


def burst(name: str, fleet: Fleet, n: int, *, release: bool = False, **fields: Any) -> list[int]:
    routing = ROUTINGS[name]()
    rows = []
    for node in range(n):
        choice = routing.choose(offer_of(node, **fields), fleet, fleet.with_room(NEEDS))
        assert choice.row in fleet.with_room(NEEDS)
        fleet.reserve(NodeId(node), choice.row, 1)
        rows.append(choice.row)
        if release:
            fleet.release(NodeId(node))
    return rows


LOAD_AWARE = (
    "load_balanced",
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "power_of_two",
    "predicted_latency",
)
AFFINE = ("affinity", "locality", "topology_aware", "bounded_hash")


def test_every_routing_is_tested_here() -> None:
    assert {*LOAD_AWARE, *AFFINE, "random"} == set(ROUTINGS)


@pytest.mark.parametrize("name", LOAD_AWARE)
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
    assert len(choice.costs) == len(rows)
    assert choice.reason


@pytest.mark.parametrize("name", AFFINE)
@given(
    n=st.integers(1, 200),
    workers=st.integers(1, 9),
    keys=st.integers(1, 3),
    release=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_affine_routings_stay_within_their_bound(
    name: str, n: int, workers: int, keys: int, release: int
) -> None:
    """Every Mooncake conversation begins with the same block: unbounded, all go to one node."""
    fleet = fleet_of(*[1000] * workers)
    routing = ROUTINGS[name]()
    for node in range(n):
        key = node % keys
        offer = offer_of(node, tenant=f"t{key}", blocks=(key,), block_size=512)
        m = int(fleet.running.sum())
        choice = routing.choose(offer, fleet, fleet.with_room(NEEDS))
        fleet.reserve(NodeId(node), choice.row, 1)
        assert fleet.running[choice.row] <= ceil(1.25 * (m + 1) / workers)
        if release and node % 4 < release:
            fleet.release(NodeId(node // 2))


@pytest.mark.parametrize("name", ["affinity", "bounded_hash", "locality"])
def test_alike_goes_together_while_there_is_room(name: str) -> None:
    fleet = fleet_of(50, 50, 50, 50)
    for node in range(40):  # some load, evenly
        fleet.reserve(NodeId(1000 + node), node % 4, 1)
    routing = ROUTINGS[name]()
    homes = set()
    for node in range(3):
        offer = offer_of(node, tenant="a", blocks=(7, node), block_size=512)
        offer.job.request.blocks = (7, 8, node)
        homes.add(routing.choose(offer, fleet, fleet.with_room(NEEDS)).row)
    assert len(homes) == 1


def test_affinity_lets_go_near_saturation_and_says_so() -> None:
    fleet = fleet_of(10, 10)
    routing = ROUTINGS["affinity"]()
    home = routing.choose(offer_of(0, tenant="a"), fleet, fleet.with_room(NEEDS)).row
    for node in range(9):
        fleet.reserve(NodeId(node), home, 1)
    for node in range(9, 18):
        fleet.reserve(NodeId(node), 1 - home, 1)
    fleet.release(NodeId(9))
    fleet.reserve(NodeId(99), home, 1)
    choice = routing.choose(offer_of(1, tenant="a"), fleet, fleet.with_room(NEEDS))
    assert choice.row != home
    assert "affinity let go: 8" in choice.reason or "affinity let go: 9" in choice.reason
    for node in range(3, 9):
        fleet.release(NodeId(node))
    choice = routing.choose(offer_of(2, tenant="a"), fleet, fleet.with_room(NEEDS))
    assert choice.row == home


@pytest.mark.parametrize(
    ("name", "lets_go"), [(n, True) for n in AFFINE[:3]] + [(AFFINE[3], False)]
)
def test_nobody_queues_behind_more_prefill_than_affinity_can_save(name: str, lets_go: bool) -> None:
    """A stranger's prefill of 5,000 tokens takes 16 + 0.2 * 5,000 ms: nobody waits for more than that."""
    fleet = fleet_of(10, 10)
    fields: Any = {"tenant": "a", "n_prompt": 5000}
    routing = ROUTINGS[name]()
    home = routing.choose(offer_of(0, **fields), fleet, fleet.with_room(NEEDS)).row
    fleet.reserve(NodeId(0), home, 1, 1_000_000)
    fleet.reserve(NodeId(1), 1 - home, 1, 1)
    assert routing.choose(offer_of(1, **fields), fleet, fleet.with_room(NEEDS)).row == home
    fleet.reserve(NodeId(2), home, 1, 100_000)
    fleet.reserve(NodeId(3), 1 - home, 1, 1)
    found = routing.choose(offer_of(2, **fields), fleet, fleet.with_room(NEEDS)).row
    assert (found != home) is lets_go


def test_locality_goes_where_the_prefix_is() -> None:
    fleet = fleet_of(10, 10, 10)
    offer = offer_of(0, n_prompt=5000, hits={WorkerId("w1"): 4096, WorkerId("w2"): 512})
    choice = ROUTINGS["locality"]().choose(offer, fleet, fleet.with_room(NEEDS))
    assert (choice.row, choice.costs.tolist()) == (1, [5000.0, 904.0, 4488.0])


def test_topology_aware_stays_near() -> None:
    fleet = Fleet()
    places = ["r1/h1", "r2/h3", "r1/h2", "r1/h1"]
    for n, place in enumerate(places):
        fleet.join(WorkerId(f"w{n}"), "m", place=place)
        fleet.up(WorkerId(f"w{n}"), "m", 8, 4096, ("generate",))
    offer = offer_of(0, n_prompt=5000, hits={WorkerId("w0"): 4096})
    choice = ROUTINGS["topology_aware"]().choose(offer, fleet, fleet.with_room(NEEDS))
    assert choice.row == 0
    assert choice.costs.tolist() == [0.0, 3.0, 2.0, 1.0]


def test_weighted_round_robin_is_smooth() -> None:
    assert burst("weighted_round_robin", fleet_of(50, 10, 10), 7) == [0, 0, 1, 0, 2, 0, 0]


def test_weighted_round_robin_gives_a_newcomer_none_of_the_credit_of_its_row() -> None:
    fleet, routing = fleet_of(50, 10), ROUTINGS["weighted_round_robin"]()

    def turns(n: int) -> list[int]:
        return [routing.choose(offer_of(0), fleet, fleet.with_room(NEEDS)).row for _ in range(n)]

    assert turns(4) == [0, 0, 0, 1], "then the first row owes 20 and the second is owed as much"
    for n in (0, 1):
        fleet.down(WorkerId(f"w{n}"), gone=True)
    for n in (2, 3):
        fleet.join(WorkerId(f"w{n}"), "m")
        fleet.up(WorkerId(f"w{n}"), ("m",), 50 if n == 2 else 10, 4096, ("generate",))
    assert fleet.ids == ["w2", "w3"]
    assert turns(4) == [0, 0, 0, 1]


def test_least_response_time_prefers_who_answers_quickly() -> None:
    fleet = fleet_of(100, 100)
    for _ in range(400):
        fleet.traits.responded(0, 400.0)
        fleet.traits.responded(1, 100.0)
    assert Counter(burst("least_response_time", fleet, 50)) == {0: 10, 1: 40}


def test_least_response_time_does_not_judge_by_one_answer() -> None:
    fleet = fleet_of(100, 100, 100)
    fleet.traits.responded(0, 100.0)
    fleet.traits.responded(1, 1000.0)
    spread = Counter(burst("least_response_time", fleet, 60))
    assert all(18 <= spread[row] <= 22 for row in range(3)), spread


def test_who_was_slow_for_a_while_is_tried_again() -> None:
    """Regression: slow answers, a cold start, and an idle worker got nothing ever after."""
    fleet = fleet_of(4, 4)
    for _ in range(400):
        fleet.traits.responded(0, 100.0)
        fleet.traits.responded(1, 10_000.0)
    counts = Counter(burst("least_response_time", fleet, 2000, release=True))
    assert 1 <= counts[1] <= 4


def test_power_of_two_draws_by_the_request() -> None:
    one = burst("power_of_two", fleet_of(9, 9, 9, 9), 20)
    assert one == burst("power_of_two", fleet_of(9, 9, 9, 9), 20)


class TestPredictedLatency:
    COEFFICIENTS = np.array([16.0, 0.015, 0.0, 4e-7, 10.0, 0.0, 2e-5])

    def fleet(self, *slots: int) -> Fleet:
        fleet = fleet_of(*slots)
        for row in range(len(slots)):
            fleet.traits.speed(row, self.COEFFICIENTS)
        return fleet

    def choose(self, fleet: Fleet, **fields: Any) -> Any:
        offer = offer_of(0, **fields)
        return ROUTINGS["predicted_latency"]().choose(offer, fleet, fleet.with_room(NEEDS))

    def test_it_is_what_the_formula_says(self) -> None:
        fleet = self.fleet(8, 8)
        fleet.reserve(NodeId(1), 0, 1000, 500_000)
        choice = self.choose(fleet, n_prompt=2000)
        prefill = 16.0 + 0.015 * 2000 + 4e-7 * 2000**2
        slower = 2e-5 * (2000 + 8)
        idle = prefill + 16 * (10.0 + slower)
        busy = 500.0 + 1.125 * prefill + 16 * (10.0 + 2e-5 * 1000 + 1.125 * slower)
        assert choice.costs == pytest.approx([busy, idle])
        assert (choice.row, ROUTINGS["predicted_latency"].unit) == (1, "ms")

    def test_a_held_prefix_is_worth_a_short_queue_but_not_a_long_one(self) -> None:
        hits = {WorkerId("w0"): 15_000}
        fleet = self.fleet(8, 8)
        fleet.reserve(NodeId(1), 0, 100, 50_000)
        assert self.choose(fleet, n_prompt=16_000, hits=hits).row == 0
        for node in range(2, 8):
            fleet.reserve(NodeId(node), 0, 100, 500_000)
        assert self.choose(fleet, n_prompt=16_000, hits=hits).row == 1

    def test_computing_again_must_win_more_than_it_costs_the_others(self) -> None:
        fleet = self.fleet(8, 8)
        hits = {WorkerId("w0"): 8_000}
        spared = self.choose(fleet, n_prompt=8_100).costs[0] - self.choose(
            fleet, n_prompt=8_100, hits=hits
        ).costs[0]  # fmt: skip
        for factor, row in ((0.9, 0), (1.1, 1)):
            fleet.work_us[0] = int(factor * 7.0 * spared * 1e3)
            assert self.choose(fleet, n_prompt=8_100, hits=hits).row == row

    def test_a_copy_of_what_many_share_costs_nobody_anything(self) -> None:
        fleet = self.fleet(8, 8)
        hits = {WorkerId("w0"): 8_000}
        alone = self.choose(fleet, n_prompt=8_100).costs[1]
        for shared, again in ((8_000, 0.0), (4_000, 0.5), (0, 1.0)):
            cost = self.choose(fleet, n_prompt=8_100, hits=hits, shared=shared).costs[1]
            whole = 6.0 * (alone - self.choose(fleet, n_prompt=8_100, hits=hits).costs[0])
            assert cost - alone == pytest.approx(again * whole, rel=0.1)

    def test_fetching_beats_recomputing_where_it_can(self) -> None:
        hits = {WorkerId("w0"): 15_000}
        fleet = self.fleet(8, 8)
        for node in range(1, 4):
            fleet.reserve(NodeId(node), 0, 100, 500_000)
        alone = self.choose(fleet, n_prompt=16_000, hits=hits).costs[1]
        fleet.traits.fetches[1] = True
        fetched = self.choose(fleet, n_prompt=16_000, hits=hits).costs[1]
        assert fetched < alone - 100.0

    def test_the_faster_class_gets_more(self) -> None:
        fleet = self.fleet(400, 400)
        fleet.traits.speed(1, self.COEFFICIENTS / 2)
        counts = Counter()
        for node in range(200):
            offer = offer_of(node, n_prompt=1000)
            row = ROUTINGS["predicted_latency"]().choose(offer, fleet, fleet.with_room(NEEDS)).row
            counts[row] += 1
            fleet.reserve(NodeId(node), row, 1016, int(30_000 / (1 + row)))
        assert counts[1] > 1.2 * counts[0]
