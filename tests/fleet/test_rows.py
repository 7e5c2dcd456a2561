"""Rows: a worker's own while it is here or holds anything, a newcomer's afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.fleet import Fleet
from sage_llm_ops.fleet.breaker import CLOSED, HALF_OPEN
from sage_llm_ops.fleet.table import GONE
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import Needs, NodeId, WorkerId

NEEDS: Needs = ("m", "generate", "")
COLUMNS = ("state", "slots", "breaker", "limit", "running", "tokens", "assigned", "work_us")
TRAITS = ("known", "price", "role", "splits", "fetches", "response_ms", "mix")


def add(fleet: Fleet, name: str, slots: int = 2) -> WorkerId:
    worker = WorkerId(name)
    fleet.join(worker, "m")
    fleet.up(worker, ("m",), slots, 100, ("generate",))
    return worker


def row_of(fleet: Fleet, row: int) -> dict[str, object]:
    """Everything that stands in one row."""
    traits = fleet.traits
    return {
        "id": fleet.ids[row],
        "serves": fleet._serves[row],
        "length": fleet._lengths[row],
        "models": fleet._models[row],
        "place": traits.place[row],
        "ms": traits.ms[:, row].tolist(),
        "kv_usage": repr(float(fleet.kv_usage[row])),
        **{name: getattr(fleet, name)[row].item() for name in COLUMNS},
        **{name: getattr(traits, name)[row].item() for name in TRAITS},
    }


def test_a_newcomer_starts_in_a_row_that_tells_nothing_of_the_one_before() -> None:
    fleet, fresh = Fleet(), Fleet()
    old = WorkerId("old")
    fleet.join(old, "m", "alias", role="decoding", price=3.0, place="rack/host")
    fleet.up(old, ("m", "alias"), 5, 4096, ("generate", "embed"))
    fleet.reserve(NodeId(1), 0, 10, 500)
    fleet.set_breaker(0, HALF_OPEN)
    fleet.drain(old)
    fleet.kv_usage[0] = 0.7
    fleet.traits.speed(0, np.ones(7))
    fleet.traits.responded(0, 80.0)
    fleet.traits.splits[0] = fleet.traits.fetches[0] = True
    fleet.release(NodeId(1))
    fleet.down(old, gone=True)
    for one in (fleet, fresh):
        one.join(WorkerId("new"), "n")
    assert fleet.rows == {WorkerId("new"): 0}
    fleet.check_integrity()
    assert row_of(fleet, 0) == row_of(fresh, 0)
    for one in (fleet, fresh):
        one.up(WorkerId("new"), ("n",), 2, 100, ("generate",))
    assert row_of(fleet, 0) == row_of(fresh, 0)
    assert fleet.serving(("n", "generate", "")).tolist() == [0]
    assert not fleet.may_serve(NEEDS) and fleet.models() == ["n"]
    fleet.check_integrity()


def test_a_row_is_kept_while_anything_is_reserved_on_it() -> None:
    fleet = Fleet()
    old = add(fleet, "old")
    fleet.reserve(NodeId(1), 0, 1)
    fleet.down(old, gone=True)
    add(fleet, "new")
    assert fleet.rows == {WorkerId("old"): 0, WorkerId("new"): 1}
    fleet.release(NodeId(1))
    assert fleet.running.tolist()[:2] == [0, 0]
    add(fleet, "newer")
    assert fleet.rows == {WorkerId("new"): 1, WorkerId("newer"): 0}


def test_a_row_is_kept_for_one_who_is_only_away() -> None:
    fleet = Fleet()
    old = add(fleet, "old")
    fleet.away(old)
    add(fleet, "new")
    assert fleet.rows == {old: 0, WorkerId("new"): 1}
    add(fleet, "old")
    assert fleet.with_room(NEEDS).tolist() == [0, 1]


def test_who_returns_before_anybody_came_has_its_row_again_and_then_another() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        add(fleet, name)
    fleet.down(WorkerId("b"), gone=True)
    assert add(fleet, "b") in fleet.rows and fleet.rows[WorkerId("b")] == 1
    for name in ("a", "b"):
        fleet.down(WorkerId(name), gone=True)
    add(fleet, "c")
    add(fleet, "a")
    assert fleet.rows == {WorkerId("c"): 0, WorkerId("a"): 1}


@pytest.mark.parametrize("verb", ["up", "down", "gone", "away", "drain", "forgive"])
def test_what_is_heard_late_of_the_one_before_does_not_touch_the_newcomer(verb: str) -> None:
    fleet = Fleet()
    old = add(fleet, "old")
    fleet.down(old, gone=True)
    add(fleet, "new")
    fleet.refuses(WorkerId("new"))
    before, version = row_of(fleet, 0), fleet.version
    if verb == "up":
        fleet.up(old, ("other",), 9, 9, ("embed",))
    elif verb == "gone":
        fleet.down(old, gone=True)
    else:
        getattr(fleet, verb)(old)
    assert row_of(fleet, 0) == before and fleet.version == version
    assert not fleet.may_serve(("other", "embed", ""))
    fleet.check_integrity()


def test_whoever_waits_for_an_id_hears_of_its_return_in_another_row() -> None:
    """Its needs were forgotten meanwhile; an epoch that comes a second time would look like none."""
    fleet = Fleet()
    a = add(fleet, "a", slots=1)
    pinned: Needs = ("m", "generate", a)
    for node in range(5):
        fleet.reserve(NodeId(node), 0, 1)
        fleet.release(NodeId(node))
    seen = fleet.epoch(pinned)
    fleet.down(a, gone=True)
    add(fleet, "b")
    assert not fleet.has_room(pinned) and fleet.shortest(pinned) is None
    add(fleet, "a")
    assert fleet.has_room(pinned) and fleet.epoch(pinned) > seen


def test_ten_thousand_ids_four_at_a_time() -> None:
    fleet = Fleet()
    for n in range(10_000):
        add(fleet, f"w{n}")
        fleet.reserve(NodeId(n), fleet.rows[WorkerId(f"w{n}")], 1)
        if n >= 4:
            fleet.down(WorkerId(f"w{n - 4}"), gone=True)
            fleet.release(NodeId(n - 4))
    assert len(fleet.ids) == 5 and set(fleet.rows) == {f"w{n}" for n in range(9995, 10_000)}
    assert {len(getattr(fleet, name)) for name in COLUMNS} == {8}
    assert {len(getattr(fleet.traits, name)) for name in TRAITS} == {8}
    assert len(fleet.traits.place) == len(fleet._serves) == 5
    assert set(fleet._up) == set(fleet._free) == set(fleet._shortest) == set(fleet._servers)
    assert len(fleet._up) == 5, "one for everybody and one for each that is here"
    assert set(fleet._up) < set(fleet._epochs) and len(fleet._epochs) == 6
    fleet.check_integrity()


def test_a_row_that_two_would_have_is_noticed() -> None:
    fleet = Fleet()
    add(fleet, "a")
    fleet.rows[WorkerId("b")] = 0
    with pytest.raises(IntegrityError, match="rows and the ids in them differ"):
        fleet.check_integrity()


VERBS = ("join", "join", "up", "up", "down", "gone", "gone", "away", "drain", "reserve", "reserve")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*VERBS, "release", "begun", "breaker"]),
            st.integers(0, 7),
            st.integers(1, 3),
        ),
        max_size=80,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_coming_and_going(history: list[tuple[str, int, int]]) -> None:
    fleet, twin = Fleet(), Fleet()
    on: dict[NodeId, WorkerId] = {}
    nodes = 0
    for verb, which, size in history:
        worker = WorkerId(f"w{which}")
        here = not fleet.left(worker)
        rows = len(fleet.ids)
        taken = [fleet.state[row] != GONE or fleet.running[row] for row in range(rows)]
        returns = worker in fleet.rows
        others = {name: row_of(fleet, row) for name, row in fleet.rows.items() if name != worker}
        for one in (fleet, twin):
            if verb == "join" and not here:
                one.join(worker, "m")
            elif verb == "up":
                one.up(worker, ("m",), size, 100, ("generate",))
            elif verb in ("down", "gone"):
                one.down(worker, gone=verb == "gone")
            elif verb in ("away", "drain"):
                getattr(one, verb)(worker)
            elif verb == "breaker" and worker in one.rows:
                one.set_breaker(one.rows[worker], size - 1)
            elif verb == "begun":
                one.begun(NodeId(size))
        if verb == "join" and not here and not returns:
            lowest = [*taken, False].index(False)
            assert fleet.rows[worker] == lowest
            assert fleet.breaker[lowest] == CLOSED and not fleet.assigned[lowest]
        if verb == "reserve" and fleet.with_room(NEEDS).size:
            nodes += 1
            row = int(fleet.with_room(NEEDS)[size % fleet.with_room(NEEDS).size])
            on[NodeId(nodes)] = fleet.ids[row]
            for one in (fleet, twin):
                one.reserve(NodeId(nodes), row, size, size - 1)
        elif verb == "release" and on:
            node = sorted(on)[which % len(on)]
            held = fleet.release(node)
            twin.release(node)
            assert held is not None and fleet.ids[held.row] == on.pop(node)
        elif verb != "begun":
            left = {name: row_of(fleet, row) for name, row in fleet.rows.items() if name != worker}
            assert all(others[name] == there for name, there in left.items()), "others were touched"
        assert all(fleet.ids[held.row] == on[node] for node, held in fleet.reservations.items())
        assert fleet.rows == twin.rows
        fleet.check_integrity()
