"""Admit: the door. What is let in will end exactly once; the rest is refused by name."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.scheduler_ir.admission import (
    SHED_AT,
    AdmissionOptions,
    Ahead,
    Drained,
    Refusal,
)
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Admitted, Arrive, Broken, ConfigSet, Job, Outcome, Timer

MOST_TOKENS = 2**31 - 1
"""Of one request, whatever its instances take: they may not have said yet, and tokens are summed."""


class Admit(Operator):
    """Refuses what nobody here could ever serve; gives the rest its deadline timer."""

    name = "admit"
    takes = {Arrive: "arrive", Timer: "timer"}
    emits = (Admitted, Outcome, Timer)
    Options = AdmissionOptions
    live = frozenset(AdmissionOptions.__struct_fields__)

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        self._drained = Drained()
        self._roomy = _roomy(options)
        """As long as fewer wait, nobody is turned away."""

    def configure(self, event: ConfigSet) -> Emitted:
        passed = super().configure(event)
        self._roomy = _roomy(self.options)
        return passed

    def arrive(self, event: Arrive) -> Emitted:
        plane, request = self.plane, event.request
        job = Job(request, event.seq)
        code, message = self._refusal(job)
        after = None
        waiting = len(plane.jobs) - len(plane.running)
        if waiting < self._roomy or not waiting:
            self._drained.pause()
        if waiting >= self._roomy and not code:
            refused = self._crowded(event, job, waiting)
            if refused is not None:
                code, message, after = refused
        if code:
            plane.metrics.refused += 1
            end = Outcome(event.seq, event.now, job, code=code, message=message)
            end.retry_after_s = after
            return end
        plane.jobs[request.id] = job
        if self.options.tenant_pending:
            plane.admission.entered(request)
        plane.metrics.accepted += 1
        timeout = request.timeout_s
        if timeout is None:
            timeout = self.options.default_timeout_s or None
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
        if not plane.fleet.may_serve(job.needs):
            known = ", ".join(map(repr, plane.fleet.models())) or "none"
            others = ", ".join(map(repr, plane.fleet.tasks(request.model)))
            can = f", only {others}" if others and repr(request.task) not in others else ""
            return "no_instance", (
                f"no instance does {request.task!r} with model {request.model!r}{can}; "
                f"models here: {known}"
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
        if wanted > MOST_TOKENS:
            return "invalid_request", (
                f"prompt of {request.n_prompt} and max_tokens={request.max_tokens} tokens exceed the "
                f"{MOST_TOKENS} that anybody may ask for; lower max_tokens"
            )
        if shortest and wanted > shortest:
            prompt = "any prompt" if request.estimated else f"prompt of {request.n_prompt}"
            return "invalid_request", (
                f"{prompt} and max_tokens={request.max_tokens} tokens exceed the "
                f"{shortest} that each instance for it takes; shorten the prompt or lower max_tokens"
            )
        return "", ""

    def _crowded(self, event: Arrive, job: Job, waiting: int) -> Refusal | None:
        """It could be served; whether there is room for it."""
        plane, options, request = self.plane, self.options, job.request
        pace = self._drained.per_s(event.now, plane.placements)
        ahead = Ahead(waiting, pace, plane.fleet.has_room(job.needs))
        service = 0.0
        if options.feasible and plane.fleet.traits.known[plane.fleet.serving(job.needs)].any():
            service = plane.outlook.service_s(request, 0)
        return plane.admission.check(request, event.now, ahead, service, options)

    def check_integrity(self) -> None:
        """Only who is inside counts against a quota."""
        self.plane.admission.check_integrity()
        if not self.plane.jobs and self.plane.admission.pending:
            raise IntegrityError("nobody is inside, and quotas are taken")

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


def _roomy(options: AdmissionOptions) -> float:
    """Half of the queue's bound where that is the only limit: so far even the lowest priority is let
    in without a closer look."""
    closer = options.tenant_pending or options.tenant_rate or options.throttle or options.feasible
    return 0.0 if closer else SHED_AT[-1] * options.max_pending
