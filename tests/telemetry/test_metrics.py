"""Metrics: measured, or None."""

from __future__ import annotations

from sage_llm_ops.telemetry import Metrics
from sage_llm_ops.types.events import Job, Outcome
from sage_llm_ops.types.ids import RequestId, WorkerId
from sage_llm_ops.types.requests import Request, SamplingParams


def outcome(code: str = "", **fields: object) -> Outcome:
    request = Request(
        RequestId("a"), "m", b"", 10, SamplingParams(), slo_ms=fields.pop("slo", None)
    )
    job = Job(request, 1)
    job.worker = WorkerId("w0")
    for name, value in fields.items():
        setattr(job, name, value)
    return Outcome(2, 3.0, job, code=code)


def test_before_anything_happened() -> None:
    total = Metrics().table()["total"]
    assert total["completed"] == 0
    assert {name: v for name, v in total.items() if name.endswith("_ms") and v is not None} == {}


def test_a_completed_request() -> None:
    metrics = Metrics()
    metrics.ended(outcome(placed=0.5, first_token=1.0, delivered=5, cached=4, attempt=3))
    row = metrics.table()["w0"]
    for name, value in (("queue", 500), ("ttft", 1000), ("tpot", 500), ("latency", 3000)):
        assert abs(row[f"{name}_p50_ms"] / value - 1) < 0.011
    assert (row["prompt_tokens"], row["output_tokens"], row["cached_tokens"]) == (10, 5, 4)
    assert row["retries"] == 2


def test_what_did_not_happen_is_not_counted_as_zero() -> None:
    metrics = Metrics()
    metrics.ended(outcome(placed=0.5, delivered=0))
    metrics.ended(outcome("cancelled"))
    row = metrics.table()["w0"]
    assert row["ttft_p50_ms"] is None
    assert row["tpot_p50_ms"] is None
    assert row["queue_p50_ms"] is not None


def test_slo() -> None:
    """Regression: compliance was always 1.0."""
    metrics = Metrics()
    metrics.ended(outcome(slo=5000.0))
    metrics.ended(outcome(slo=2999.0))
    metrics.ended(outcome("worker_lost", slo=5000.0))
    metrics.ended(outcome("cancelled", slo=1.0))
    metrics.ended(outcome())
    assert (metrics.slo_counted, metrics.slo_violations) == (3, 2)


def test_total_is_the_sum_and_no_row_of_nowhere() -> None:
    metrics = Metrics()
    for worker in ("w0", "w1", None):
        metrics.ended(outcome(worker=worker))
    table = metrics.table()
    assert set(table) == {"w0", "w1", "total"}
    assert table["total"]["completed"] == 3


def test_workers_that_are_not_here_any_more_share_a_row() -> None:
    here = {"w0"}
    metrics = Metrics(here)
    metrics.ended(outcome(worker=None))
    for n in range(100):
        here.clear()
        here.add(f"w{n}")
        metrics.ended(outcome(worker=WorkerId(f"w{n}"), placed=0.5))
    rows = metrics.table()
    assert set(rows) == {"departed", "w99", "total"}
    assert (rows["departed"]["completed"], rows["w99"]["completed"]) == (99, 1)
    assert rows["total"]["completed"] == 101
    assert rows["total"]["queue_p50_ms"] == rows["w99"]["queue_p50_ms"]
