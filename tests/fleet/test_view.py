"""The fleet: load, room and epochs under any sequence of membership and reservations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.fleet import Fleet
from sage_llm_ops.fleet.breaker import CLOSED, HALF_OPEN, OPEN
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import Needs, NodeId, WorkerId

A, B = WorkerId("a"), WorkerId("b")
NEEDS: Needs = ("m", "generate", "")


def add(
    fleet: Fleet, worker: WorkerId, slots: int = 1, model: str = "m", length: int = 100
) -> None:
    if worker not in fleet.rows or fleet.describe()[fleet.rows[worker]]["state"] == "gone":
        fleet.join(worker, model)
    fleet.up(worker, (model,), slots, length, ("generate",))


def test_reserved_load_is_visible_at_once_and_released_once() -> None:
    fleet = Fleet()
    add(fleet, A, slots=1)
    fleet.reserve(NodeId(1), 0, 10)
    assert not fleet.has_room(NEEDS)
    assert not fleet.with_room(NEEDS).size
    before = fleet.epoch(NEEDS)
    held = fleet.release(NodeId(1))
    assert held is not None and held.row == 0
    assert fleet.release(NodeId(1)) is None
    assert fleet.epoch(NEEDS) == before + 1
    with pytest.raises(IntegrityError, match="node 2 is reserved twice"):
        for _ in range(2):
            fleet.reserve(NodeId(2), 0, 1)


def test_excluded_only_while_there_is_another() -> None:
    fleet = Fleet()
    add(fleet, A)
    add(fleet, B)
    assert fleet.with_room(NEEDS, (A,)).tolist() == [1]
    fleet.down(B)
    assert fleet.with_room(NEEDS, (A,)).tolist() == [0]
    assert fleet.with_room(NEEDS, (WorkerId("never seen"),)).tolist() == [0]


def test_a_worker_that_comes_back_smaller_hides_nobodys_room() -> None:
    """It still holds two nodes and takes one: minus one there is not zero in all."""
    fleet = Fleet()
    add(fleet, A, slots=2)
    fleet.reserve(NodeId(1), 0, 1)
    fleet.reserve(NodeId(2), 0, 1)
    add(fleet, A, slots=1)
    add(fleet, B, slots=1)
    assert fleet.has_room(NEEDS)
    assert fleet.with_room(NEEDS).tolist() == [1]
    fleet.release(NodeId(1))
    fleet.release(NodeId(2))
    fleet.check_integrity()
    assert fleet.with_room(NEEDS).tolist() == [0, 1]


def test_another_model_without_going_down_in_between() -> None:
    fleet = Fleet()
    add(fleet, A, model="m", length=100)
    fleet.up(A, ("n",), 1, 50, ("generate",))
    assert not fleet.has_room(NEEDS)
    assert not fleet.may_serve(NEEDS)
    assert fleet.shortest(("n", "generate", "")) == 50
    assert not fleet.shortest(NEEDS)


def test_what_each_of_unequal_workers_takes() -> None:
    """Whoever waits may be given to each of them, so the shortest counts."""
    fleet = Fleet()
    add(fleet, A, length=100)
    add(fleet, B, length=50)
    assert fleet.shortest(NEEDS) == 50
    assert fleet.shortest((NEEDS[0], NEEDS[1], A)) == 100
    fleet.down(B, gone=True)
    assert fleet.shortest(NEEDS) == 100


def test_a_restart_does_not_end_a_drain() -> None:
    fleet = Fleet()
    add(fleet, A)
    fleet.drain(A)
    fleet.down(A)
    fleet.up(A, ("m",), 1, 100, ("generate",))
    assert not fleet.has_room(NEEDS)


def test_gone_is_gone_until_it_joins_again() -> None:
    fleet = Fleet()
    add(fleet, A)
    fleet.down(A, gone=True)
    fleet.up(A, ("m",), 1, 100, ("generate",))
    assert not fleet.may_serve(NEEDS)
    assert fleet.models() == []
    add(fleet, A)
    assert fleet.rows == {A: 0}
    with pytest.raises(IntegrityError, match="'a' joined twice"):
        fleet.join(A, "m")


def test_a_drained_worker_keeps_its_load_and_gets_nothing() -> None:
    fleet = Fleet()
    add(fleet, A, slots=2)
    fleet.reserve(NodeId(1), 0, 5)
    fleet.drain(A)
    assert not fleet.has_room(NEEDS)
    assert fleet.describe()[0]["running"] == 1
    assert fleet.may_serve(NEEDS)
    fleet.release(NodeId(1))
    fleet.check_integrity()


def test_open_offers_nothing_and_half_open_one_probe_at_a_time() -> None:
    fleet = Fleet()
    add(fleet, A, slots=4)
    fleet.reserve(NodeId(1), 0, 1)
    fleet.set_breaker(0, OPEN)
    assert not fleet.has_room(NEEDS)
    assert fleet.may_serve(NEEDS), "whoever needs it waits"
    before = fleet.epoch(NEEDS)
    fleet.set_breaker(0, HALF_OPEN)
    assert fleet.has_room(NEEDS) and fleet.epoch(NEEDS) > before
    fleet.reserve(NodeId(2), 0, 1)
    assert not fleet.has_room(NEEDS)
    given_before = fleet.release(NodeId(1))
    assert given_before is not None and not given_before.probe
    assert not fleet.has_room(NEEDS), "that was not the probe"
    probe = fleet.release(NodeId(2))
    assert probe is not None and probe.probe
    assert fleet.has_room(NEEDS)
    fleet.set_breaker(0, CLOSED)
    assert fleet.describe()[0]["breaker"] == "closed"
    fleet.check_integrity()


def test_refused_names_are_not_kept() -> None:
    fleet = Fleet()
    add(fleet, A)
    for n in range(100):
        assert not fleet.may_serve((f"m{n}", "generate", ""))
    assert len(fleet._may) == 0


def test_more_workers_than_the_arrays_began_with() -> None:
    fleet = Fleet()
    for n in range(40):
        add(fleet, WorkerId(f"w{n}"), slots=n + 1)
    assert fleet.with_room(NEEDS).tolist() == list(range(40))
    assert [row["slots"] for row in fleet.describe()] == list(range(1, 41))
    assert all(row["kv_usage"] is None for row in fleet.describe())


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["up", "down", "gone", "drain", "reserve", "reserve", "release", "breaker"]
            ),
            st.integers(0, 3),
            st.integers(1, 3),
        ),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_any_history(history: list[tuple[str, int, int]]) -> None:
    fleet = Fleet()
    nodes = 0
    for verb, which, size in history:
        worker = WorkerId(f"w{which}")
        before = fleet.epoch(NEEDS)
        room = fleet.has_room(NEEDS)
        if verb == "up":
            add(fleet, worker, slots=size)
        elif verb in ("down", "gone") and worker in fleet.rows:
            fleet.down(worker, gone=verb == "gone")
        elif verb == "drain" and worker in fleet.rows:
            fleet.drain(worker)
        elif verb == "reserve" and fleet.with_room(NEEDS).size:
            nodes += 1
            fleet.reserve(NodeId(nodes), int(fleet.with_room(NEEDS)[0]), size)
        elif verb == "release":
            fleet.release(NodeId(which))
        elif verb == "breaker" and worker in fleet.rows:
            fleet.set_breaker(fleet.rows[worker], size - 1)
        fleet.check_integrity()
        assert fleet.has_room(NEEDS) == bool(fleet.with_room(NEEDS).size)
        if fleet.has_room(NEEDS) and not room:
            assert fleet.epoch(NEEDS) > before, "room appeared and nobody who waits would know"


def test_of_workers_that_left_nothing_is_looked_at() -> None:
    """Regression: each event of the membership looked at everybody who had ever been there."""
    fleet = Fleet()
    needs = ("m", "generate", "")
    for number in range(300):
        worker = WorkerId(f"w{number}")
        fleet.join(worker, "m")
        fleet.up(worker, ("m",), 2, 4096, ("generate",))
        if number >= 4:
            fleet.down(WorkerId(f"w{number - 4}"), gone=True)
        fleet.check_integrity()
    here = {fleet.ids[row] for row in fleet.serving(needs)}
    assert here == {f"w{number}" for number in range(296, 300)}
    for known in (fleet._servers, fleet._up, fleet._free, fleet._shortest):
        assert len(known) == 5, "the model, and the four that may be pinned"
    assert fleet.may_serve(needs)
    assert not fleet.may_serve(("m", "generate", "w0"))
    for number in range(296, 300):
        fleet.down(WorkerId(f"w{number}"), gone=True)
    assert not fleet.may_serve(needs)
    assert fleet.serving(needs).size == 0
    assert fleet.shortest(needs) is None
    before = fleet.epoch(needs)
    fleet.join(WorkerId("w0"), "m")
    fleet.up(WorkerId("w0"), ("m",), 2, 4096, ("generate",))
    assert fleet.epoch(needs) > before, "who was parked before must look again"
