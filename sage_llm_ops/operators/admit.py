"""Admit: the door. What is let in will end exactly once; the rest is refused by name."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import Admitted, Arrive, Broken, Job, Outcome, Timer


class AdmitOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`max_pending`: how many may wait for a place at a time."""

    max_pending: int = 20_000
    default_timeout_s: float | None = None


class Admit(Operator):
    """Refuses what nobody here could ever serve; gives the rest its deadline timer."""

    name = "admit"
    takes = {Arrive: "arrive", Timer: "timer"}
    emits = (Admitted, Outcome, Timer)
    Options = AdmitOptions
    live = frozenset({"max_pending", "default_timeout_s"})

    def arrive(self, event: Arrive) -> Emitted:
        plane, request = self.plane, event.request
        job = Job(request, event.seq)
        code, message = self._refusal(job)
        if code:
            plane.metrics.refused += 1
            return Outcome(event.seq, event.now, job, code=code, message=message)
        plane.jobs[request.id] = job
        plane.metrics.accepted += 1
        timeout = request.timeout_s
        if timeout is None:
            timeout = self.options.default_timeout_s
        if timeout is not None:
            plane.timers.at(request.arrived + timeout, "deadline", request.id)
        return Admitted(event.seq, event.now, job)

    def timer(self, event: Timer) -> Emitted:
        if event.kind != "quarantine":
            return event
        self.plane.quarantine.forget(event.key)

    def _refusal(self, job: Job) -> tuple[str, str]:
        plane, request = self.plane, job.request
        if request.id in plane.jobs:
            return (
                "duplicate_request",
                "the id belongs to a request that still runs; choose another",
            )
        priority: object = request.priority
        if not isinstance(priority, int):  # one that cannot be compared would block the queue
            return "invalid_request", f"priority={priority!r} must be a whole number"
        if request.timeout_s is not None and not request.timeout_s >= 0.0:
            return "invalid_request", (
                f"timeout_s={request.timeout_s!r} must be 0 or more; leave it out for no limit"
            )
        waiting = len(plane.jobs) - len(plane.running)
        if waiting >= self.options.max_pending:
            return "overloaded", (
                f"{waiting} requests are waiting and max_pending={self.options.max_pending}; "
                "send it later, add instances or raise admit.max_pending"
            )
        if not plane.fleet.may_serve(job.needs):
            known = ", ".join(map(repr, plane.fleet.models())) or "none"
            return "no_instance", (
                f"no instance does {request.task!r} with model {request.model!r}; models here: {known}"
            )
        if plane.quarantine.held:  # hardly ever: nothing is hashed before a request has killed
            first = plane.quarantine.first(request)
            if first is not None:
                return "quarantined", (
                    f"model, prompt and sampling are those of request {first!r}, under which workers "
                    "died: it is kept from the others; send it later (recover.quarantine_s) or "
                    "change it"
                )
        shortest = plane.fleet.shortest(job.needs)
        least = 1 if request.estimated else request.n_prompt  # the server counts the rest
        wanted = least + (request.max_tokens if request.task == "generate" else 0)
        if shortest and wanted > shortest:
            prompt = "any prompt" if request.estimated else f"prompt of {request.n_prompt}"
            return "invalid_request", (
                f"{prompt} and max_tokens={request.max_tokens} tokens exceed the "
                f"{shortest} that each instance for it takes; shorten the prompt or lower max_tokens"
            )
        return "", ""

    def failed(self, event: Any, error: Exception) -> Emitted:
        """A request that could not even be looked at ends by name, like any other."""
        passed = super().failed(event, error)
        if not isinstance(event, Arrive):
            return passed
        job = Job(event.request, event.seq)
        if self.plane.jobs.setdefault(event.request.id, job).request is not event.request:
            return Outcome(event.seq, event.now, job, code="duplicate_request", message=str(error))
        job = self.plane.jobs[event.request.id]
        return Broken(event.seq, event.now, job, operator=self.id, error=error)
