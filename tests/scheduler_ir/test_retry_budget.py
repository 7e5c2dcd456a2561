"""The retry budget: a share of what was accepted, and a floor."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.scheduler_ir import RetryBudget, RetryRule

RULE = RetryRule(share=0.2, floor=3, window_s=10.0)


def taken(budget: RetryBudget, now: float, accepted: int) -> int:
    """How many retries it gives at once."""
    count = 0
    while budget.take(now, accepted, RULE):
        count += 1
    return count


def test_the_floor_is_there_from_the_beginning() -> None:
    budget = RetryBudget()
    assert taken(budget, 5.0, 1_000_000) == 3, "of the time before nothing is known"
    assert taken(budget, 9.0, 1_000_000) == 0
    assert taken(budget, 9.0, 1_000_010) == 2, "a share of what was accepted since"


def test_a_new_window_knows_how_many_came_before_it() -> None:
    budget = RetryBudget()
    taken(budget, 0.0, 0)
    assert taken(budget, 10.0, 100) == 3 + 20
    assert taken(budget, 30.0, 300) == 3 + 20, "two hundred in twenty seconds"
    assert taken(budget, 40.0, 300) == 3


@given(st.lists(st.tuples(st.floats(0.0, 4.0), st.integers(0, 20)), max_size=80))
def test_never_more_than_its_two_windows_allow(steps: list[tuple[float, int]]) -> None:
    budget, now, accepted, spent = RetryBudget(), 0.0, 0, 0
    for seconds, came in steps:
        now, accepted = now + seconds, accepted + came
        spent += taken(budget, now, accepted)
        windows = now / RULE.window_s + 1
        assert spent <= windows * RULE.floor + 2 * RULE.share * accepted + 1e-6
