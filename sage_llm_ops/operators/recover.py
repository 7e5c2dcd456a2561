"""Recover: what becomes of a request whose attempt failed."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.scheduler_ir import RetryBudget, RetryRule
from sage_llm_ops.types.events import AttemptFailed, Job, Outcome, Retry

FINAL = frozenset({"invalid_request", "capability"})
"""Reasons that another worker would give again."""

FREE_REFUSALS = 100
"""A worker that has just died refuses until its death is heard, a moment later, and a retry may find
nobody else; a worker that leaves in order is nobody's fault. So often that costs no attempt."""


class RecoverOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`max_deaths`: so many workers may die under a request before it is kept from the others, and
    whoever asks the same within `quarantine_s` (0: only it) is refused.

    `retry_share`, `retry_floor`, `retry_window_s`: the retry budget of all requests together, see
    `scheduler_ir/retry_budget.py`. What died with its worker or was never taken goes on at no
    charge: `max_deaths` and `FREE_REFUSALS` bound that, and the death of a large worker must not
    cost anybody an answer.
    """

    max_attempts: int = 4
    max_deaths: int = 2
    quarantine_s: float = 60.0
    retry_share: float = 0.2
    retry_floor: int = 100
    retry_window_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("quarantine_s", "retry_share", "retry_floor"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be 0 or more")
        if not self.retry_window_s > 0:
            raise ValueError(f"retry_window_s={self.retry_window_s!r} must be above 0")


class Recover(Operator):
    """Another attempt where it can end the same way, else one typed end with what was made so far."""

    name = "recover"
    takes = {AttemptFailed: "attempt_failed"}
    emits = (Retry, Outcome)
    Options = RecoverOptions
    live = frozenset(RecoverOptions.__struct_fields__)

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        self.budget = RetryBudget()

    def attempt_failed(self, event: AttemptFailed) -> Emitted:
        job = event.job
        job.deaths += event.died
        free = event.died
        if event.reason == "worker_lost" and not event.died and job.refused < FREE_REFUSALS:
            job.refused += 1
            free = True
        if job.worker is not None and job.worker not in job.excluded:
            job.excluded = (*job.excluded, job.worker)
        if job.cancelled:
            code, message = job.cancelled, job.cancel_message
            return Outcome(event.seq, event.now, job, code=code, message=message)
        if self._complete(job):
            return Outcome(event.seq, event.now, job, finish_reason="length")
        code, message = self._verdict(job, event)
        if not code and not free:
            code, message = self._within_budget(event)
        if code == "quarantined":
            self._keep(event)
        if code:
            return Outcome(event.seq, event.now, job, code=code, message=message)
        self.plane.ledger.retry(
            event.seq, event.now, job.request.id, job.attempt, event.reason, event.message
        )
        return Retry(event.seq, event.now, job)

    @staticmethod
    def _complete(job: Job) -> bool:
        """Whether all tokens came and only the word of it was lost."""
        request = job.request
        counted = request.task == "generate" and not request.estimated
        return counted and job.delivered >= request.max_tokens

    def _verdict(self, job: Job, event: AttemptFailed) -> tuple[str, str]:
        """Code and sentence of the end, or two empty strings for another attempt."""
        if event.reason in FINAL:
            return event.reason, event.message
        if job.deaths >= self.options.max_deaths:
            return "quarantined", (
                f"{job.deaths} workers died while they ran it (max_deaths={self.options.max_deaths}); "
                f"the last on {job.worker!r}: {event.message}"
            )
        if job.delivered and job.request.estimated:
            return event.reason, (
                f"{event.message}; text was delivered, and without the model's tokenizer nothing can "
                "go on exactly where it stopped: give the instances the option tokenizer"
            )
        if job.delivered and not job.request.sampling.exactly_resumable:
            return event.reason, (
                f"{event.message}; {job.delivered} tokens were delivered and only greedy decoding "
                "without stop strings and penalties can go on exactly where it stopped"
            )
        if job.attempt - job.refused >= self.options.max_attempts:
            return event.reason, f"{event.message}; attempt {job.attempt} was the last allowed"
        return "", ""

    def _within_budget(self, event: AttemptFailed) -> tuple[str, str]:
        """As `_verdict`; takes one retry out of the budget."""
        options, accepted = self.options, self.plane.metrics.accepted
        rule = RetryRule(options.retry_share, options.retry_floor, options.retry_window_s)
        if self.budget.take(event.now, accepted, rule):
            return "", ""
        return event.reason, (
            f"{event.message}; the retry budget is spent: {self.budget.spent} retries within "
            f"{rule.window_s:g} s (retry_share={rule.share:g}, retry_floor={rule.floor}, "
            "retry_window_s): see what fails, or raise them"
        )

    def _keep(self, event: AttemptFailed) -> None:
        """Whoever asks the same again meets the same end at the door, for a while."""
        plane, wait = self.plane, self.options.quarantine_s
        if wait:
            name, forgotten = plane.quarantine.add(event.job.request)
            if forgotten:
                plane.timers.cancel("quarantine", forgotten)
            if name:
                plane.timers.at(event.now + wait, "quarantine", name, daemon=True)
