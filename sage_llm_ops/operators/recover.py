"""Recover: what becomes of a request whose attempt failed."""

from __future__ import annotations

import msgspec

from sage_llm_ops.operators.advance import STOPPED
from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import AttemptFailed, Job, Outcome, Retry

FINAL = frozenset({"invalid_request", "capability"})
"""Reasons that another worker would give again."""

FREE_REFUSALS = 100
"""A worker that has just died refuses until its death is heard, a moment later, and a retry may find
nobody else; a worker that leaves in order is nobody's fault. So often that costs no attempt."""


class RecoverOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`max_deaths`: so many workers may die under a request before it is kept from the others."""

    max_attempts: int = 4
    max_deaths: int = 2


class Recover(Operator):
    """Another attempt where it can end the same way, else one typed end with what was made so far."""

    name = "recover"
    takes = {AttemptFailed: "attempt_failed"}
    emits = (Retry, Outcome)
    Options = RecoverOptions
    live = frozenset({"max_attempts", "max_deaths"})

    def attempt_failed(self, event: AttemptFailed) -> Emitted:
        job = event.job
        job.deaths += event.died
        if event.reason == "worker_lost" and not event.died and job.refused < FREE_REFUSALS:
            job.refused += 1
        if job.worker is not None and job.worker not in job.excluded:
            job.excluded = (*job.excluded, job.worker)
        if job.cancelled:
            code = job.cancelled
            return Outcome(event.seq, event.now, job, code=code, message=STOPPED[code])
        if self._complete(job):
            return Outcome(event.seq, event.now, job, finish_reason="length")
        code, message = self._verdict(job, event)
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
