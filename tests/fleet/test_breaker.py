"""A worker's breaker: when it opens, for how long, and what closes it."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.fleet.breaker import CLOSED, HALF_OPEN, JITTER, OPEN, Breaker, BreakerRule
from sage_llm_ops.types.ids import WorkerId

RULE = BreakerRule(failures=3, window=5, open_s=2.0, most_s=10.0)
W0, W1 = WorkerId("w0"), WorkerId("w1")


def opened(worker: WorkerId = W0, times: int = 1) -> Breaker:
    breaker = Breaker(worker)
    for _ in range(RULE.failures):
        breaker.answered(False, RULE, probe=False)
    for _ in range(times - 1):
        breaker.waited()
        breaker.answered(False, RULE, probe=True)
    assert (breaker.state, breaker.opened) == (OPEN, times)
    return breaker


def test_a_probe_decides() -> None:
    breaker = opened()
    assert not breaker.answered(True, RULE, probe=False), "it was given before"
    breaker.waited()
    assert not breaker.answered(True, RULE, probe=False), "so was this one"
    assert breaker.state == HALF_OPEN
    assert breaker.answered(True, RULE, probe=True)
    assert breaker.idle


def test_each_failed_probe_doubles_the_wait_up_to_the_most() -> None:
    waits = [opened(times=times).wait_s(RULE) for times in range(1, 6)]
    for wait, least in zip(waits, (2.0, 4.0, 8.0, 10.0, 10.0), strict=True):
        assert least <= wait <= least * (1.0 + JITTER)
    assert opened(times=3).wait_s(RULE) == waits[2], "the same in a replay"
    assert Breaker(W0).wait_s(RULE) < RULE.open_s


def test_workers_that_broke_together_are_not_probed_together() -> None:
    assert opened(W0).wait_s(RULE) != opened(W1).wait_s(RULE)


def test_after_closing_it_counts_anew() -> None:
    breaker = opened(times=4)
    breaker.waited()
    breaker.answered(True, RULE, probe=True)
    for _ in range(RULE.failures - 1):
        assert not breaker.answered(False, RULE, probe=False)
    assert breaker.answered(False, RULE, probe=False)
    assert breaker.opened == 1


@given(st.lists(st.booleans(), max_size=60))
def test_it_opens_at_so_many_failures_among_the_latest(answers: list[bool]) -> None:
    breaker, latest = Breaker(W0), deque[bool](maxlen=RULE.window)
    for ok in answers:
        latest.append(ok)
        changed = breaker.answered(ok, RULE, probe=False)
        assert changed == (latest.count(False) >= RULE.failures)
        if changed:
            return
        assert breaker.state == CLOSED
        assert breaker.idle == all(latest)
