"""What a caller asks for, and the form in which it travels the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from sage_llm_ops.types.errors import InvalidRequest
from sage_llm_ops.types.fields import refuse_unknown_fields
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.parallelism import ParallelismType


class RequestPriority(IntEnum):
    """Smaller is more urgent. Looked up by upper-case name or by number."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3
    BACKGROUND = 4


class RequestStatus(StrEnum):
    """Where a request stands: queued for a place, scheduled to a worker, running once its engine
    says that it holds it. The last three are terminal."""

    PENDING = "pending"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Task(StrEnum):
    """What is asked of the engine."""

    GENERATE = "generate"
    EMBED = "embed"


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How tokens are chosen. Fields at their default are not sent to an engine."""

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    skip_special_tokens: bool = True

    @property
    def exactly_resumable(self) -> bool:
        """Whether prompt + delivered tokens, sent again, must give the same continuation.

        Penalties count the tokens generated so far and stop strings look back over them; an engine
        that is given the delivered tokens as prompt would count them differently.
        """
        return (
            self.temperature == 0.0
            and not self.stop
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
            and self.repetition_penalty == 1.0
        )

    def after(self, delivered: int) -> SamplingParams:
        """What is left to do once so many tokens are delivered."""
        if not delivered:
            return self
        return msgspec.structs.replace(
            self,
            max_tokens=self.max_tokens - delivered,
            min_tokens=max(0, self.min_tokens - delivered),
        )

    def first_only(self) -> SamplingParams:
        """What a prefill node does: the prompt, and the one token that comes out of it."""
        return msgspec.structs.replace(self, max_tokens=1, min_tokens=min(1, self.min_tokens))

    def checked(self) -> SamplingParams:
        """Itself, or `InvalidRequest` that names the field, the value and its range."""
        rules: tuple[tuple[str, bool, str], ...] = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, "between 0 and max_tokens"),
            ("temperature", 0.0 <= self.temperature <= 10.0, "between 0 and 10"),
            ("top_p", 0.0 < self.top_p <= 1.0, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("min_p", 0.0 <= self.min_p <= 1.0, "between 0 and 1"),
            ("presence_penalty", -2.0 <= self.presence_penalty <= 2.0, "between -2 and 2"),
            ("frequency_penalty", -2.0 <= self.frequency_penalty <= 2.0, "between -2 and 2"),
            ("repetition_penalty", self.repetition_penalty > 0.0, "above 0"),
            ("stop", all(self.stop), "strings that are not empty"),
        )
        for field, fits, limit in rules:
            if not fits:
                raise InvalidRequest(
                    f"sampling parameter {field}={getattr(self, field)!r} must be {limit}"
                )
        return self


@refuse_unknown_fields
@dataclass(slots=True)
class RequestMetadata:
    """A request as its caller writes it.

    `slo_deadline_ms` is an objective: missing it is counted, the request still completes.
    `timeout_ms` is a limit: when it passes, the request fails with `DeadlineExpired`.
    `trace` is a W3C `traceparent`: it goes with the request to its worker and into the ledger.
    """

    request_id: str | None = None
    user_id: str | None = None
    priority: RequestPriority = RequestPriority.NORMAL
    slo_deadline_ms: float | None = None
    max_tokens: int = 512
    prompt: str = ""
    model_name: str | None = None
    cost_budget: float | None = None
    """What it may cost at most, in the currency of the instances' `price_per_hour`. Its turn come, it
    goes only where its prefill on the whole worker and its decode on one of its slots are expected
    to cost no more, under every policy; an instance without a price costs nothing. Where only dearer
    ones have room it ends `over_budget` at once: waiting would hold up those behind it. Each attempt
    is held to the budget on its own, for what is left to do."""
    parallelism_hint: ParallelismType | None = None
    timeout_ms: float | None = None
    prompt_token_ids: list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    sampling_params: SamplingParams | Mapping[str, Any] | Any | None = None
    task: Task | str = Task.GENERATE
    pin: str | None = None
    trace: str = ""


class Request(msgspec.Struct, gc=False):
    """A request as it travels: validated, tokenised, with nothing in it that a driver must guess.

    It is recorded whole, so everything a decision may depend on stands here.
    """

    id: RequestId
    model: str
    tokens: bytes
    """The prompt's token ids as int32, little endian: one buffer from here to the worker."""
    n_prompt: int
    sampling: SamplingParams
    priority: int = RequestPriority.NORMAL
    tenant: str = ""
    slo_ms: float | None = None
    timeout_s: float | None = None
    task: str = "generate"
    arrived: float = 0.0
    """When the source stamped it; set by the source."""
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's blocks where a trace gives them instead of tokens (`block_size` each)."""
    block_size: int = 0
    pin: str = ""
    """The one worker it must run on; empty: any."""
    trace: str = ""
    """W3C `traceparent` of the caller's span; empty: it is not traced."""
    estimated: bool = False
    """True where token counts are estimates, because nobody here has the model's tokenizer; the
    ids in the stream are then UTF-8 bytes of the text that came."""
    untokenised: str | list[dict[str, Any]] | None = None
    """The prompt as text, or the messages, where nobody here can make token ids of it."""
    cost_budget: float | None = None
    """See `RequestMetadata`."""

    @property
    def max_tokens(self) -> int:
        """How many tokens it may generate."""
        return self.sampling.max_tokens
