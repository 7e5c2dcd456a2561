"""From errors to answers in OpenAI's shape: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import math

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.service.gateway.messages import Answer, json_answer
from sage_llm_ops.types.errors import (
    CapabilityError,
    ConfigError,
    DeadlineExpired,
    DuplicateRequest,
    EngineFailed,
    InvalidRequest,
    NoInstance,
    NotRunning,
    Overloaded,
    PipelineDied,
    Quarantined,
    Refused,
    RequestCancelled,
    RequestFailed,
    SageLlmOpsError,
    SlowReader,
    UnknownName,
    UnknownRequest,
    WorkerLost,
)

RETRY_AFTER_S = 1.0
"""Where a refusal that may be over soon does not say when."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    499: "request_cancelled",
}
_STATUS: tuple[tuple[type[SageLlmOpsError], int], ...] = (
    # The first that fits counts, so the special ones come first.
    (DuplicateRequest, 409),
    (UnknownRequest, 404),
    (InvalidRequest, 400),
    (Overloaded, 429),
    (NotRunning, 503),
    (NoInstance, 404),
    (Refused, 503),
    (DeadlineExpired, 408),
    (RequestCancelled, 499),
    (SlowReader, 499),
    (WorkerLost, 503),
    (EngineFailed, 502),  # the server behind this one
    (Quarantined, 422),  # 5xx would have clients send it again, and more workers die
    (PipelineDied, 503),
    (UnknownName, 404),
    (ConfigError, 400),
    (CapabilityError, 400),
)
RETRIABLE = (429, 503)


class HttpError(Exception):
    """A refusal of the gateway's own. `param` names the field that is wrong."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after_s, self.headers = retry_after_s, headers


def error_answer(error: Exception) -> Answer:
    """The answer that tells of an error; of one that nobody foresaw only that it happened."""
    status, body, headers = _told(error)
    return json_answer({"error": body}, status, *headers)


def error_body(error: Exception) -> dict[str, object]:
    """The same within a stream that has begun."""
    return {"error": _told(error)[1]}


def _told(error: Exception) -> tuple[int, dict[str, object], tuple[tuple[str, str], ...]]:
    if isinstance(error, HttpError):
        status, message, code, param = error.status, error.message, error.code, error.param
        after, headers = error.retry_after_s, error.headers
    elif isinstance(error, SageLlmOpsError):
        status = next((s for kind, s in _STATUS if isinstance(error, kind)), 500)
        if isinstance(error, RequestFailed) and error.reason == CapabilityError.code:
            status = 400  # no engine here does it; another attempt would end the same way
        message, code, param, headers = str(error), error.code, None, ()
        after = getattr(error, "retry_after_s", None)
    else:
        status, code, param, after, headers = 500, "internal_error", None, None, ()
        message = "a defect of this server; its log says more under this x-request-id"
    if status in RETRIABLE:
        seconds = math.ceil(RETRY_AFTER_S if after is None else max(after, 0.0)) or 1
        headers = (*headers, ("retry-after", str(seconds)))
    default = "server_error" if status >= 500 else "invalid_request_error"
    kind = _TYPES.get(status, default)
    return status, {"message": message, "type": kind, "param": param, "code": code}, headers


def head_too_large(size: int, config: GatewayConfig) -> HttpError:
    """Too much in headers."""
    return HttpError(
        431,
        f"the head has {size} bytes and max_header_bytes={config.max_header_bytes}; send less "
        "in headers, or raise it",
        code="head_too_large",
    )


def body_too_large(size: str, config: GatewayConfig) -> HttpError:
    """Too much in a body."""
    return HttpError(
        413,
        f"the body has {size} bytes and max_body_bytes={config.max_body_bytes}; send less, or "
        "raise it",
        code="body_too_large",
    )
