"""The door: each limit by itself, with its sentence and when to come back."""

from __future__ import annotations

import pytest

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
    door.ended(first)
    assert ask(door, third, tenant_pending=2) is None
    for one in (second, third, request(9), request(77)):
        door.ended(one)
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


@pytest.mark.parametrize(
    "wrong", [{"max_pending": -1}, {"tenant_burst": 0}, {"throttle": 0.5}, {"throttle_window_s": 0}]
)
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdmissionOptions(**wrong)
