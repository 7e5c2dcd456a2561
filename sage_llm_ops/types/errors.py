"""Every error this package raises on purpose, in one tree.

    SageLlmOpsError
    ├── ConfigError              a file or an argument that cannot be obeyed (file, line, key, value)
    │   ├── UnknownName          a name nobody registered; lists the nearest valid ones
    │   └── PluginError          an installed package's name that cannot be used (names the package)
    ├── PipelineError            a graph refused when it was built, used wrongly, or after it ended
    ├── CapabilityError          an engine was asked for what it says it cannot do
    ├── EngineStartError         a worker did not come up (with the tail of its log)
    ├── ProtocolError            a wire frame or handshake that does not fit
    ├── ReplayMismatch           a replay took another decision than the recording
    ├── IntegrityError           our own invariant broke: a defect in this package
    └── RequestError             about one request; carries `.request_id`
        ├── InvalidRequest       refused before it was accepted: the request itself is wrong
        │   ├── DuplicateRequest
        │   └── UnknownRequest
        ├── Refused              refused before it was accepted: no room for it now (`.retry_after_s`)
        │   ├── Overloaded
        │   ├── QuotaExceeded
        │   ├── DeadlineInfeasible
        │   ├── NoInstance
        │   └── NotRunning
        └── RequestFailed        accepted and then ended without completing (`.partial`: what was made)
            ├── DeadlineExpired
            ├── OverBudget
            ├── RequestCancelled
            ├── WorkerLost
            ├── EngineFailed
            ├── SlowReader
            ├── Quarantined
            └── PipelineDied

`code` is the stable machine name: it crosses processes, ledgers and HTTP, where classes do not.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar, Self


class SageLlmOpsError(Exception):
    """Base of all errors raised on purpose. The message names the value, the limit and the fix."""

    code: ClassVar[str] = "error"


class ConfigError(SageLlmOpsError):
    """A setting that cannot be obeyed; says where it stands when it came from a file."""

    code = "config"

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        self.message, self.file, self.line, self.key = message, file, line, key
        super().__init__(self._sentence())

    def at(self, *, file: str | None, line: int | None, key: str | None) -> Self:
        """Itself, saying where: for whoever knows the place of a setting that another refused."""
        self.file, self.line, self.key = file, line, key
        self.args = (self._sentence(),)
        return self

    def _sentence(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        parts = (where, f"`{self.key}`" if self.key else "", self.message)
        return ": ".join(part for part in parts if part)


class UnknownName(ConfigError):
    """A name that nobody registered. Never replaced by a default."""

    code = "unknown_name"

    def __init__(
        self,
        kind: str,
        name: object,
        known: Iterable[str],
        *,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        names = sorted(known)
        self.kind, self.name, self.known = kind, name, names
        folded = {known_name.lower(): known_name for known_name in names}
        near = difflib.get_close_matches(str(name).lower(), folded, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(folded[n]) for n in near)}? " if near else ""
        super().__init__(
            f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}",
            file=file,
            line=line,
            key=key,
        )


class PluginError(ConfigError):
    """A name that an installed package registers and that cannot be used as it is."""

    code = "plugin"


class PipelineError(SageLlmOpsError):
    """A graph that was refused when it was built, used in a way that breaks it, or after it ended."""

    code = "pipeline"


class CapabilityError(SageLlmOpsError):
    """An engine was asked for something its `Capabilities` deny."""

    code = "capability"


class EngineStartError(SageLlmOpsError):
    """A worker did not come up; the message ends with the tail of its log."""

    code = "engine_start"


class ProtocolError(SageLlmOpsError):
    """A wire frame or a handshake that does not fit this protocol version."""

    code = "protocol"


class ReplayMismatch(SageLlmOpsError):
    """A replay took another decision than the recording holds."""

    code = "replay_mismatch"


class IntegrityError(SageLlmOpsError):
    """One of our own invariants broke: always a defect in this package, never the user's fault."""

    code = "integrity"


class RequestError(SageLlmOpsError):
    """About one request."""

    code = "request"

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        self.request_id = request_id
        super().__init__(f"request {request_id!r}: {message}" if request_id else message)


class InvalidRequest(RequestError):
    """The request itself is wrong; sending it again unchanged will fail again."""

    code = "invalid_request"


class DuplicateRequest(InvalidRequest):
    """The id belongs to a request that is still remembered."""

    code = "duplicate_request"


class UnknownRequest(InvalidRequest):
    """No such request is running, and none is remembered under this id any more."""

    code = "unknown_request"


class Refused(RequestError):
    """Not accepted now; the same request may be accepted later."""

    code = "refused"

    def __init__(
        self, message: str, *, request_id: str | None = None, retry_after_s: float | None = None
    ) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, request_id=request_id)


class Overloaded(Refused):
    """A bound on accepted work is reached."""

    code = "overloaded"


class QuotaExceeded(Refused):
    """The tenant's own quota or rate is used up; others are let in."""

    code = "quota_exceeded"


class DeadlineInfeasible(Refused):
    """It could not end in time any more, so it is not begun."""

    code = "deadline_infeasible"


class NoInstance(Refused):
    """No instance serves this model, or none of those that do could ever hold the request."""

    code = "no_instance"


class NotRunning(Refused):
    """The control plane is not started, draining or stopped."""

    code = "not_running"


class RequestFailed(RequestError):
    """Accepted, then ended without completing. `partial` holds the token ids already delivered,
    `reason` the code of what ended it, which need not be that of a class about requests."""

    code = "failed"

    def __init__(
        self,
        message: str,
        *,
        request_id: str | None = None,
        partial: tuple[int, ...] = (),
        reason: str = "",
    ) -> None:
        self.partial, self.reason = partial, reason or self.code
        super().__init__(message, request_id=request_id)


class DeadlineExpired(RequestFailed):
    """Its `timeout_ms` passed before it was done."""

    code = "deadline_expired"


class OverBudget(RequestFailed):
    """Wherever there is room it would cost more than its `cost_budget`."""

    code = "over_budget"


class RequestCancelled(RequestFailed):
    """Somebody called `cancel`."""

    code = "cancelled"


class WorkerLost(RequestFailed):
    """Its worker died and the rest could not be had elsewhere."""

    code = "worker_lost"


class EngineFailed(RequestFailed):
    """The engine refused or broke on this request."""

    code = "engine_failed"


class SlowReader(RequestFailed):
    """Whoever reads its stream fell too many tokens behind."""

    code = "slow_reader"


class Quarantined(RequestFailed):
    """Its attempts, or those of another request with the same content, coincided with too many
    worker deaths: it is not given to another worker."""

    code = "quarantined"


class PipelineDied(RequestFailed):
    """The pipeline stopped underneath it: shut down, or a defect that the watchdog caught."""

    code = "pipeline_died"


def _tree(root: type[SageLlmOpsError]) -> dict[str, type[SageLlmOpsError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


BY_CODE: dict[str, type[SageLlmOpsError]] = _tree(SageLlmOpsError)


def failure(
    code: str,
    message: str,
    request_id: str,
    partial: tuple[int, ...],
    retry_after_s: float | None = None,
) -> RequestError:
    """The exception for a terminal outcome that crossed the graph as a code and a sentence.

    Codes of errors that are not about requests (a defect of ours, a capability an engine lacks)
    end a request all the same: as plain `RequestFailed`, the code kept in the sentence.
    """
    kind = BY_CODE.get(code)
    if kind is not None and issubclass(kind, RequestFailed):
        return kind(message, request_id=request_id, partial=partial)
    if kind is not None and issubclass(kind, Refused):
        return kind(message, request_id=request_id, retry_after_s=retry_after_s)
    if kind is not None and issubclass(kind, RequestError):
        return kind(message, request_id=request_id)
    said = f"{code}: {message}"
    return RequestFailed(said, request_id=request_id, partial=partial, reason=code)
