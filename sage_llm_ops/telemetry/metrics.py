"""Numbers that were measured, per worker and in total. What was not measured is None."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from sage_llm_ops.telemetry.histogram import Histogram
from sage_llm_ops.types.events import Job, Outcome

NOWHERE = ""
"""Key of the requests that ended before any worker had them."""
DEPARTED = "departed"
"""Key of what workers did whose row another has by now, all together: ids come and go for months, and
totals must not fall."""

COUNTS = (
    "completed",
    "failed",
    "cancelled",
    "retries",
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
)
SPREADS = ("ttft", "tpot", "queue", "latency")


class Tally:
    """What one worker, or all of them, did."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.cancelled = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.retries = 0
        self.ttft = Histogram()
        self.tpot = Histogram()
        self.queue = Histogram()
        self.latency = Histogram()

    def completed_job(self, job: Job, now: float) -> None:
        """Count one completed request."""
        request = job.request
        self.completed += 1
        self.prompt_tokens += request.n_prompt
        self.output_tokens += job.delivered
        self.cached_tokens += job.cached
        self.latency.add(now - request.arrived)
        if job.placed is not None:
            self.queue.add(job.placed - request.arrived)
        if job.first_token is not None:
            self.ttft.add(job.first_token - request.arrived)
            if job.delivered > 1:
                self.tpot.add((now - job.first_token) / (job.delivered - 1))

    def add(self, other: Tally) -> None:
        """Count what another one counted."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in SPREADS:
            getattr(self, name).merge(getattr(other, name))

    def row(self) -> dict[str, Any]:
        """Plain numbers; milliseconds."""
        out: dict[str, Any] = {name: getattr(self, name) for name in COUNTS}
        for name in SPREADS:
            histogram: Histogram = getattr(self, name)
            for label, share in (("p50", 0.50), ("p95", 0.95), ("p99", 0.99)):
                value = histogram.quantile(share)
                out[f"{name}_{label}_ms"] = None if value is None else value * 1e3
        return out


class Metrics:
    """Written by Measure alone; readers see whole numbers, not a consistent cut.

    `here`: the workers that are told apart; without it all are.
    """

    def __init__(self, here: Container[str] | None = None) -> None:
        self._here = here
        self.workers: dict[str, Tally] = {}
        self.accepted = 0
        self.refused = 0
        self.slo_counted = 0
        self.slo_violations = 0
        self.started: float | None = None
        self.latest: float | None = None

    def ended(self, outcome: Outcome) -> None:
        """Count the one end of a request."""
        job, now = outcome.job, outcome.now
        self.latest = now
        tally = self.workers.get(job.worker or NOWHERE)
        if tally is None:
            self._fold()
            tally = self.workers[job.worker or NOWHERE] = Tally()
        if not outcome.code:
            tally.completed_job(job, now)
        elif outcome.code == "cancelled":
            tally.cancelled += 1
        else:
            tally.failed += 1
        tally.retries += max(0, job.attempt - 1)
        if job.request.slo_ms is not None:
            self._slo(outcome)

    def _fold(self) -> None:
        """At once for readers: a counter that fell for a moment would be taken for a restart."""
        here = self._here
        if here is None:
            return
        kept, gone = dict[str, Tally](), list[Tally]()
        for name, tally in self.workers.items():
            if name == NOWHERE or name in here:
                kept[name] = tally
            else:
                gone.append(tally)
        if gone:
            together = kept[DEPARTED] = Tally()
            for tally in gone:
                together.add(tally)
            self.workers = kept

    def _slo(self, outcome: Outcome) -> None:
        """An objective is met by completing in time; a cancelled request says nothing about it."""
        job = outcome.job
        if outcome.code == "cancelled" or job.request.slo_ms is None:
            return
        self.slo_counted += 1
        late = (outcome.now - job.request.arrived) * 1e3 > job.request.slo_ms
        if outcome.code or late:
            self.slo_violations += 1

    def table(self) -> dict[str, dict[str, Any]]:
        """One row a worker and one `total`."""
        rows = {
            name: tally.row() for name, tally in sorted(self.workers.items()) if name != NOWHERE
        }
        return {**rows, "total": self.total().row()}

    def total(self) -> Tally:
        """All workers together, summed when it is asked for: counting happens per request."""
        total = Tally()
        for tally in list(self.workers.values()):
            total.add(tally)
        return total
