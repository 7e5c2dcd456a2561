"""What comes back to the caller."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.types.requests import RequestStatus


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `estimated` where an engine reports none."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds on the driver's clock; None where it did not happen."""

    arrived: float
    placed: float | None = None
    accepted: float | None = None
    """When the worker that answered said that it has it."""
    first_token: float | None = None
    ended: float | None = None

    @property
    def queue_s(self) -> float | None:
        """From arrival to the last placement."""
        return None if self.placed is None else self.placed - self.arrived

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token."""
        return None if self.first_token is None else self.first_token - self.arrived

    @property
    def latency_s(self) -> float | None:
        """From arrival to the end."""
        return None if self.ended is None else self.ended - self.arrived

    def tpot_s(self, completion_tokens: int) -> float | None:
        """Mean time per token after the first; None below two tokens."""
        if self.first_token is None or self.ended is None or completion_tokens < 2:
            return None
        return (self.ended - self.first_token) / (completion_tokens - 1)


@dataclass(frozen=True, slots=True)
class RequestResult:
    """One completed request. `str(result)` is the text."""

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    usage: Usage
    timings: Timings
    instance_id: str
    attempts: int = 1
    embedding: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class RequestState:
    """Answer of `get_request_status`."""

    request_id: str
    state: RequestStatus
    output: str | None = None
    error: str | None = None
    timings: Timings | None = None
    instance_id: str | None = None
