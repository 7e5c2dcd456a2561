"""Deliver: the caller gets the one end of the request."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.operators.base import Emitted, Operator, log
from sage_llm_ops.types.events import Outcome

REFUSALS = frozenset(
    {
        "duplicate_request",
        "overloaded",
        "quota_exceeded",
        "deadline_infeasible",
        "no_instance",
        "invalid_request",
        "quarantined",
    }
)
"""Ends of requests that Admit never let in."""


class Deliver(Operator):
    """The first outcome wins; a second one is a defect, counted and not delivered."""

    name = "deliver"
    shape = "sink"
    takes = {Outcome: "outcome"}

    def outcome(self, event: Outcome) -> Emitted:
        plane, job = self.plane, event.job
        identity = job.request.id
        if plane.jobs.get(identity) is job:
            del plane.jobs[identity]
            if plane.admission.pending:
                plane.admission.ended(job.request, event.now)
            plane.timers.cancel("deadline", identity)
            plane.timers.cancel("cancel_ack", identity)
        elif event.code not in REFUSALS:
            log.error("request %r ended twice; the second end was %r", identity, event.code)
            plane.broken += 1
            return
        plane.hands.deliver(event)

    def failed(self, event: Any, error: Exception) -> Emitted:
        """The watchdog ends what could not be delivered; here nothing is left to tell."""
        super().failed(event, error)
