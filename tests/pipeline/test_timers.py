"""Timers: due in order, movable, and nothing left of those that are not wanted any more."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.pipeline.timers import TimerHeap


def fire(heap: TimerHeap) -> list[tuple[str, str]]:
    out = []
    while heap.next_at() is not None:
        timer = heap.pop()
        out.append((timer.kind, timer.key))
    return out


def test_in_order_of_time_then_of_setting() -> None:
    heap = TimerHeap()
    for when, key in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        heap.at(when, "deadline", key)
    assert heap.next_at() == 1.0
    assert fire(heap) == [("deadline", "a"), ("deadline", "b"), ("deadline", "c")]


def test_the_same_name_moves_it() -> None:
    heap = TimerHeap()
    heap.at(1.0, "deadline", "a")
    heap.at(5.0, "deadline", "a")
    heap.at(2.0, "cancel_ack", "a")
    assert fire(heap) == [("cancel_ack", "a"), ("deadline", "a")]


def test_only_work_keeps_a_simulation_going() -> None:
    heap = TimerHeap()
    heap.at(1.0, "health", "w0", daemon=True)
    assert heap.pending_work == 0
    heap.at(2.0, "deadline", "a")
    heap.at(3.0, "health", "a")
    assert heap.pending_work == 2
    heap.cancel("deadline", "a")
    heap.cancel("deadline", "a")
    assert heap.pending_work == 1
    fire(heap)
    assert heap.pending_work == 0


def test_cancelled_timers_do_not_pile_up() -> None:
    heap = TimerHeap()
    for n in range(20_000):
        heap.at(1e6 + n, "deadline", str(n))
        if n >= 10:
            heap.cancel("deadline", str(n))
    assert len(heap) <= 512
    assert heap.pending() == [("deadline", str(n)) for n in range(10)]
    assert len(fire(heap)) == 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["at", "at", "cancel", "pop"]), st.integers(0, 9), st.floats(0, 9)
        ),
        max_size=80,
    )
)
@settings(max_examples=50, deadline=None)
def test_like_a_dictionary(history: list[tuple[str, int, float]]) -> None:
    heap, twin = TimerHeap(), {}
    for count, (verb, key, when) in enumerate(history):
        if verb == "at":
            heap.at(when, "k", str(key))
            twin[str(key)] = (when, count)
        elif verb == "cancel":
            heap.cancel("k", str(key))
            twin.pop(str(key), None)
        elif twin:
            first = min(twin, key=lambda name: twin[name])
            assert heap.next_at() == twin.pop(first)[0]
            assert heap.pop().key == first
        assert heap.next_at() == min((when for when, _ in twin.values()), default=None)
        assert heap.pending_work == len(twin)
