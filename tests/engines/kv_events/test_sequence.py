"""Numbered batches into order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.kv_events.sequence import Next, Sequence


def numbers(found: object) -> list[int]:
    return [one.number for one in found]  # type: ignore[attr-defined]


def test_in_order() -> None:
    sequence = Sequence()
    assert sequence.asking == 0
    assert numbers(sequence.answered()) == []
    assert sequence.asking is None
    assert numbers(sequence.live(0, b"a")) == [0]
    assert numbers(sequence.live(1, b"b")) == [1]
    assert sequence.asking is None


def test_a_gap_is_asked_for_and_filled() -> None:
    sequence = Sequence()
    sequence.answered()
    assert numbers(sequence.live(0, b"a")) == [0]
    assert numbers(sequence.live(3, b"d")) == []
    assert sequence.asking == 0, "from the last one that was taken"
    assert numbers(sequence.replayed(0, b"a")) == []
    assert numbers(sequence.replayed(1, b"b")) == [1]
    assert numbers(sequence.replayed(2, b"c")) == [2, 3]
    assert numbers(sequence.answered()) == []
    assert (sequence.asking, sequence.lost) == (None, 0)


def test_what_the_answer_did_not_bring_is_lost_and_told() -> None:
    sequence = Sequence()
    sequence.answered()
    sequence.live(5, b"f")
    sequence.live(8, b"i")
    assert sequence.answered() == [Next(5, None), Next(5, b"f")]
    assert (sequence.lost, sequence.asking) == (5, 5)
    assert sequence.replayed(5, b"f") == []
    assert sequence.answered() == [Next(8, None), Next(8, b"i")]
    assert sequence.asking is None


def test_a_publisher_that_begins_anew() -> None:
    sequence = Sequence()
    sequence.answered()
    for number in range(3):
        sequence.live(number, b"old")
    assert sequence.live(0, b"new") == [Next(0, None), Next(0, b"new")]
    assert sequence.restarts == 1


def test_one_that_began_anew_and_has_come_as_far_meanwhile() -> None:
    sequence = Sequence()
    sequence.answered()
    for number in range(3):
        sequence.live(number, b"old")
    sequence.reconnected()
    assert sequence.live(3, b"new") == [], "not before it is clear whose it is"
    assert sequence.asking == 2
    assert sequence.replayed(2, b"new") == [Next(0, None)]
    assert sequence.replayed(3, b"new") == []
    sequence.answered()
    assert sequence.asking == 0
    out = [one for number in range(4) for one in sequence.replayed(number, b"new")]
    assert numbers(out) == [0, 1, 2, 3]


def test_one_that_began_anew_and_has_nothing_yet() -> None:
    sequence = Sequence()
    sequence.answered()
    sequence.live(0, b"old")
    sequence.reconnected()
    assert sequence.answered() == [Next(0, None)]


def test_what_waited_behind_a_gap_may_be_of_the_publisher_before() -> None:
    sequence = Sequence()
    sequence.answered()
    sequence.live(1, b"old")
    sequence.reconnected()
    sequence.answered()
    sequence.answered()
    assert sequence.live(0, b"new") == [Next(0, None), Next(0, b"new")]
    assert sequence.live(1, b"new 1") == [Next(1, b"new 1")]


def test_a_line_that_was_down_for_a_moment() -> None:
    sequence = Sequence()
    sequence.answered()
    sequence.live(0, b"a")
    sequence.reconnected()
    assert sequence.live(1, b"b") == []
    assert numbers(sequence.replayed(0, b"a")) == [1]
    assert sequence.answered() == []
    assert (sequence.restarts, sequence.lost) == (0, 0)


def test_live_behind_its_own_replay_is_no_restart() -> None:
    sequence = Sequence()
    assert numbers(sequence.replayed(0, b"a")) == [0]
    assert numbers(sequence.replayed(1, b"b")) == [1]
    sequence.answered()
    assert numbers(sequence.live(1, b"b")) == []
    assert (sequence.restarts, sequence.duplicates) == (0, 1)


@given(seed=st.integers(0, 1 << 30), count=st.integers(0, 30), keep=st.integers(1, 40))
def test_every_batch_once_in_order_or_told_what_is_missing(
    seed: int, count: int, keep: int
) -> None:
    rng = random.Random(seed)
    sequence, out, buffer = Sequence(), [], []
    for number in range(count):
        buffer = [*buffer, number][-keep:]
        if rng.random() < 0.6:
            out += sequence.live(number, b"%d" % number)
        if rng.random() < 0.1:
            sequence.reconnected()
        if sequence.asking is not None and rng.random() < 0.5:
            for old in [n for n in buffer if n >= sequence.asking]:
                if rng.random() < 0.9:
                    out += sequence.replayed(old, b"%d" % old)
            out += sequence.answered()
    while sequence.asking is not None:
        out += sequence.answered()
    expected = 0
    for number, payload in out:
        if payload is None:
            expected = number
        else:
            assert (number, payload) == (expected, b"%d" % number)
            expected += 1
