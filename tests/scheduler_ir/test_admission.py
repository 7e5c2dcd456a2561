"""The door: each limit by itself, with its sentence and when to come back."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.scheduler_ir.admission import (
    Admission,
    AdmissionOptions,
    Ahead,
    Drained,
    Refusal,
)
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request, SamplingParams

CALM = Ahead(0, 0.0)


def request(number: int = 0, **fields: object) -> Request:
    return Request(RequestId(f"r{number}"), "m", b"", 10, SamplingParams(), **fields)


def ask(
    door: Admission, one: Request, now: float = 0.0, ahead: Ahead = CALM, service_s: float = 0.0,
    **options: object,
) -> Refusal | None:  # fmt: skip
    refused = door.check(one, now, ahead, service_s, AdmissionOptions(**options))
    if refused is None:
        door.entered(one)
    return refused


def test_quota_per_tenant_and_back_again() -> None:
    door = Admission()
    first, second, third = (request(n, tenant="a") for n in range(3))
    assert ask(door, first, tenant_pending=2) is None
    assert ask(door, second, tenant_pending=2) is None
    refused = ask(door, third, tenant_pending=2)
    assert refused.code == "quota_exceeded"
    assert "tenant 'a' has 2" in refused.message and refused.retry_after_s
    assert ask(door, request(9, tenant="b"), tenant_pending=2) is None
    door.ended(first, 0.0)
    assert ask(door, third, tenant_pending=2) is None
    for one in (second, third, request(9), request(77)):
        door.ended(one, 0.0)
    assert door.pending == {}


def test_rate_per_tenant_says_when() -> None:
    door = Admission()
    options = {"tenant_rate": 2.0, "tenant_burst": 3}
    for n in range(3):
        assert ask(door, request(n, tenant="a"), 10.0, **options) is None
    refused = ask(door, request(3, tenant="a"), 10.1, **options)
    assert refused.code == "quota_exceeded"
    assert refused.retry_after_s == pytest.approx(0.4)
    assert ask(door, request(4, tenant="a"), 10.1 + refused.retry_after_s + 1e-9, **options) is None
    assert ask(door, request(5, tenant="b"), 10.1, **options) is None


@pytest.mark.parametrize(("priority", "from_"), [(0, 100), (1, 100), (2, 90), (3, 70), (4, 50)])
def test_low_priorities_are_turned_away_first(priority: int, from_: int) -> None:
    door = Admission()
    one = request(priority=priority)
    assert ask(door, one, ahead=Ahead(from_ - 1, 5.0), max_pending=100) is None
    refused = ask(door, one, ahead=Ahead(from_, 5.0), max_pending=100)
    assert refused.code == "overloaded"
    assert refused.retry_after_s == pytest.approx(from_ / 5.0)
    assert (f"priority {priority}" in refused.message) == (from_ < 100)
    assert ask(door, one, ahead=Ahead(99, 5.0), max_pending=100, shed=False) is None


def test_a_deadline_that_cannot_be_met() -> None:
    door = Admission()
    one = request(slo_ms=2_000.0)
    assert ask(door, one, ahead=Ahead(50, 50.0), service_s=0.9, feasible=True) is None
    refused = ask(door, one, ahead=Ahead(100, 50.0), service_s=0.9, feasible=True)
    assert refused.code == "deadline_infeasible"
    assert refused.retry_after_s == pytest.approx(2.0)
    assert ask(door, request(1), ahead=Ahead(100, 1.0), service_s=9.0, feasible=True) is None


def test_adaptive_throttling_refuses_in_proportion() -> None:
    """A caller who retries at once meets the door, not the queue."""
    door = Admission()
    full = Ahead(100, 10.0)
    for n in range(200):
        ask(door, request(n), now=n * 0.01, ahead=full, max_pending=100, throttle=2.0)
    turned_away = sum(
        ask(door, request(1000 + n), now=2.0, throttle=2.0) is not None for n in range(50)
    )
    assert turned_away > 25
    later = sum(
        ask(door, request(2000 + n), now=400.0, throttle=2.0) is not None for n in range(50)
    )
    assert later == 0, "what was refused long ago is forgotten"


def test_the_queues_pace() -> None:
    drained = Drained()
    assert drained.per_s(0.0, 0) == 0.0
    assert drained.per_s(0.5, 100) == 0.0
    assert drained.per_s(2.0, 100) == pytest.approx(50.0)
    assert drained.per_s(3.0, 110) == pytest.approx(30.0)


def test_the_pace_is_that_of_a_queue() -> None:
    """Regression: after an idle hour a burst met the pace of that hour, and was refused for it."""
    drained = Drained()
    drained.per_s(0.0, 0)
    assert drained.per_s(1.0, 20) == pytest.approx(20.0)
    drained.pause()
    assert drained.per_s(3600.0, 21) == pytest.approx(20.0)
    assert drained.per_s(3602.0, 61) == pytest.approx(20.0)
    assert drained.per_s(3500.0, 61) == pytest.approx(20.0), "a clock that went back tells nothing"


def test_nobody_waits_behind_a_queue_for_other_workers() -> None:
    """Regression: one model's queue made every objective of another one infeasible."""
    door = Admission()
    one = request(slo_ms=2_000.0)
    crowd = Ahead(1000, 10.0)
    assert ask(door, one, ahead=crowd, service_s=0.5, feasible=True) is not None
    assert ask(door, one, ahead=crowd._replace(room=True), service_s=0.5, feasible=True) is None


def test_the_default_timeout_is_a_deadline_too() -> None:
    door = Admission()
    options = {"feasible": True, "default_timeout_s": 3.0}
    refused = ask(door, request(), ahead=Ahead(100, 10.0), service_s=0.5, **options)
    assert refused.code == "deadline_infeasible" and "within 3;" in refused.message
    assert ask(door, request(1, timeout_s=60.0), ahead=Ahead(100, 10.0), **options) is None


@given(
    rate=st.floats(0.01, 100.0),
    burst=st.integers(1, 5),
    gaps=st.lists(st.floats(-5.0, 5.0), max_size=30),
)
def test_who_waits_as_long_as_the_rate_says_gets_in(
    rate: float, burst: int, gaps: list[float]
) -> None:
    door, now = Admission(), 100.0
    for gap in gaps:
        now += gap
        refused = ask(door, request(tenant="a"), now, tenant_rate=rate, tenant_burst=burst)
        if refused is not None:
            assert refused.retry_after_s <= 1.0 / rate * (1.0 + 1e-6)
            now += refused.retry_after_s * (1.0 + 1e-6) + 1e-6
            assert ask(door, request(tenant="a"), now, tenant_rate=rate, tenant_burst=burst) is None


@given(asked=st.integers(1, 300), number=st.integers(0, 99), k=st.floats(1.0, 3.0))
def test_who_waits_as_long_as_the_throttle_says_gets_in(asked: int, number: int, k: float) -> None:
    """Regression: a caller that came back after a window was refused again, by the same draw."""
    door, full = Admission(), Ahead(1, 1.0)
    for n in range(asked):
        ask(door, request(1000 + n), ahead=full, max_pending=1, throttle=k)
    refused = ask(door, request(number), throttle=k)
    if refused is not None:
        longest = AdmissionOptions().throttle_window_s * 10.0
        assert 0.0 < refused.retry_after_s <= longest
        if refused.retry_after_s < longest:
            later = refused.retry_after_s * (1.0 + 1e-6)
            assert ask(door, request(number), later, throttle=k) is None


def test_a_quota_says_how_long_a_request_stays() -> None:
    door = Admission()
    first, second = request(1, tenant="a", arrived=0.0), request(2, tenant="a", arrived=0.0)
    ask(door, first, tenant_pending=1)
    assert ask(door, second, tenant_pending=1).retry_after_s == 1.0, "nobody knows yet"
    door.ended(first, 8.0)
    ask(door, second, 8.0, tenant_pending=1)
    assert ask(door, first, 8.0, tenant_pending=1).retry_after_s == pytest.approx(8.0)


def test_a_million_tenants_cost_no_look_at_all_of_them_each() -> None:
    """Regression: beyond 4,096 tenants whose bucket was not full every new one looked at them all."""
    door = Admission()
    looks = 0
    forget = door._forget

    def counted(now: float, options: AdmissionOptions) -> None:
        nonlocal looks
        looks += len(door._buckets)
        forget(now, options)

    door._forget = counted  # type: ignore[method-assign]
    for n in range(40_000):
        ask(door, request(0, tenant=f"t{n}"), n * 1e-3, tenant_rate=1e-4)
    assert looks < 3 * 40_000
    for n in range(40_000):
        ask(door, request(0, tenant=f"u{n}"), 1e6 + n * 1e-1, tenant_rate=1.0)
    assert len(door._buckets) < 10_000, "who has its whole burst again is forgotten"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_pending": -1},
        {"tenant_burst": 0},
        {"throttle": 0.5},
        {"throttle": inf},
        {"throttle_window_s": 0},
        {"throttle_window_s": inf},
        {"tenant_rate": inf},
        {"default_timeout_s": nan},
        {"default_timeout_s": -1.0},
    ],
)
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdmissionOptions(**wrong)
