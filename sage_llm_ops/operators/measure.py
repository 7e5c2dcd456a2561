"""Measure: counts every end, before it is told to anyone."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import Outcome


class MeasureOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`enabled`: false leaves every number unmeasured, which reads as None."""

    enabled: bool = True


class Measure(Operator):
    """Writes the metrics, and the last line of a request in the ledger."""

    name = "measure"
    takes = {Outcome: "outcome"}
    emits = (Outcome,)
    passes = ()
    Options = MeasureOptions

    def outcome(self, event: Outcome) -> Emitted:
        job = event.job
        if self.options.enabled:
            self.plane.metrics.ended(event)
        why = event.message or event.finish_reason
        request = job.request
        self.plane.ledger.end(
            event.seq,
            event.now,
            request.id,
            job.attempt,
            event.code,
            why,
            job.delivered,
            request.trace,
        )
        return event

    def failed(self, event: Any, error: Exception) -> Emitted:
        """A number that is missing must not cost a caller the answer."""
        super().failed(event, error)
        return event
