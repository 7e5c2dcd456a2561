from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.suites.lifetime import pool_hits, quality
from sage_llm_ops.kv_policy.history import AccessHistory, Use
from sage_llm_ops.kv_policy.lifetime import LifetimePredictor
from sage_llm_ops.types.errors import ConfigError
from tests.kv_policy.recorded import made_up


def _sessions(predictor: LifetimePredictor, count: int) -> None:
    """Every 10 s a session of two turns 30 s apart: all but the last block of a turn come back once."""
    for n in range(count):
        for turn in (n, n - 3):
            if turn < 0:
                continue
            blocks = [(turn, 0), (turn, 1), (turn, 2 if turn == n else 3)]
            for place, key in enumerate(blocks):
                predictor.note(key, 10.0 * n, tail=place == 2)


def test_what_ends_a_prompt_is_not_waited_for() -> None:
    predictor = LifetimePredictor(AccessHistory())
    _sessions(predictor, 200)
    now = 2000.0
    predictor.note("fresh", now)
    predictor.note("tail", now, tail=True)
    fresh, tail = (
        predictor.predict_ttl("fresh", now, 60.0),
        predictor.predict_ttl("tail", now, 60.0),
    )
    assert fresh.ttl_s is not None and fresh.median_s is not None and fresh.reuse is not None
    assert 20.0 < fresh.ttl_s < 45.0
    assert 20.0 < fresh.median_s < 45.0
    assert fresh.reuse > 0.9
    assert tail.ttl_s == 0.0
    assert tail.reuse is not None and tail.reuse < 0.1
    # After its time a block is not expected any more, and used twice it has done its part.
    late = predictor.reuse_within(Use(now, 1, False), now + 200.0, 60.0)
    assert late is not None and late < 0.2
    twice = predictor.reuse_within(Use(now, 2, False), now, 60.0)
    assert twice is not None and twice < 0.1


def test_nothing_is_claimed_before_anything_was_seen() -> None:
    predictor = LifetimePredictor(AccessHistory())
    predictor.note("a", 1.0)
    assert predictor.predict_ttl("a", 2.0).ttl_s is None
    assert predictor.reuse_within(Use(1.0, 1, False), 2.0, 5.0) is None


def test_what_is_too_young_is_not_dead() -> None:
    """Half of the blocks are a second old when the curves are made: they say nothing about 30 s."""
    predictor = LifetimePredictor(AccessHistory())
    for n in range(150):
        predictor.note(n, 0.0)
    for n in range(150):
        predictor.note(n, 30.0)
    for n in range(1000, 1300):
        predictor.note(n, 30.0 + n / 1000.0)
    reuse = predictor.reuse_within(Use(40.0, 1, False), 40.0, 60.0)
    assert reuse is not None and reuse > 0.9


def test_on_a_workload_predictions_are_calibrated_and_worth_something() -> None:
    stream = made_up(2000)
    found = quality(stream)
    assert found["calibration"] < 0.05
    assert 0.7 < found["covered"] <= 1.0
    assert found["error"] < found["error_none"]
    capacity = stream.unique // 20
    assert pool_hits(stream, capacity, hints=True) > pool_hits(stream, capacity, hints=False)


def test_only_what_comes_within_the_horizon_counts() -> None:
    predictor = LifetimePredictor(AccessHistory())
    for n in range(400):
        for key, lag in (("soon", 5), ("late", 50)):
            predictor.note((key, n), float(n))
            predictor.note((key, n - lag), float(n))
    near, far = (predictor.predict_ttl("unknown", 400.0, horizon) for horizon in (20.0, 100.0))
    assert near.ttl_s is not None and far.ttl_s is not None
    assert near.ttl_s < 10.0 < 40.0 < far.ttl_s
    assert near.reuse is not None and far.reuse is not None
    assert near.reuse < far.reuse


@given(
    uses=st.lists(st.tuples(st.integers(0, 20), st.floats(0.0, 50.0), st.booleans()), max_size=400),
    limit=st.integers(1, 25),
)
def test_curves_stay_curves(uses: list[tuple[int, float, bool]], limit: int) -> None:
    history = AccessHistory(limit)
    predictor = LifetimePredictor(history)
    now = 0.0
    for key, later, tail in uses:
        now += later
        predictor.note(key, now, tail=tail)
        found = predictor.predict_ttl(key, now, 60.0)
        if found.reuse is not None:
            assert 0.0 <= found.reuse <= 1.0
            assert found.ttl_s is not None and 0.0 <= found.ttl_s < math.inf
    assert len(history) <= limit
    predictor.check_integrity()


@pytest.mark.parametrize(
    "options", [{"finest_s": 0.0}, {"coverage": 1.0}, {"floor": -0.1}, {"floor": 1.1}]
)
def test_settings_that_mean_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="lifetime predictor"):
        LifetimePredictor(AccessHistory(), **options)
    with pytest.raises(ConfigError, match="at least 1"):
        AccessHistory(0)
