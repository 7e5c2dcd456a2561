"""OpenAI's bodies as this server takes them: every field that is honoured, and no other.

What a client may write without meaning anything by it (`n: 1`, `logprobs: false`) is taken at that
value alone; at any other it is refused by name, because ignoring a wish is lying about the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from sage_llm_ops.service.gateway.errors import HttpError

INT32 = 2**31 - 1

Positive = Annotated[int, Meta(ge=1, le=INT32)]
TokenId = Annotated[int, Meta(ge=0, le=INT32)]
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
Milliseconds = Annotated[float, Meta(gt=0, le=1e10)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """`include_usage`: one more chunk before the end, without choices, that counts tokens."""

    include_usage: bool | None = None
    include_obfuscation: Literal[None] = None


class Wishes(Struct, kw_only=True, forbid_unknown_fields=True):
    """What chats and completions have in common. Beyond OpenAI's: the sampling parameters of
    vLLM's server, `return_token_ids`, and `priority`, `slo_deadline_ms`, `timeout_ms`."""

    model: str | None = None
    """None: the only model served here."""
    max_tokens: Positive | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=INT32)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | Annotated[list[StopString], Meta(max_length=64)] | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=1024)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    priority: int | str | None = None
    slo_deadline_ms: Milliseconds | None = None
    timeout_ms: Milliseconds | None = None
    return_token_ids: bool | None = None
    # Taken where they say what happens anyway:
    n: Any = None
    best_of: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    response_format: Any = None
    service_tier: Any = None
    metadata: Any = None
    include_stop_str_in_output: Any = None
    spaces_between_special_tokens: Any = None
    add_special_tokens: Any = None


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a message; text is all that models here read."""

    type: Literal["text"]
    text: str


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. The fields after `name` are null in what OpenAI's client hands back."""

    role: Annotated[str, Meta(min_length=1, max_length=64)]
    content: str | list[Part]
    name: str | None = None
    refusal: Literal[None] = None
    annotations: Literal[None] = None
    audio: Literal[None] = None
    function_call: Literal[None] = None
    tool_calls: Literal[None] = None

    def plain(self) -> dict[str, Any]:
        """As chat templates take it."""
        content = self.content
        if not isinstance(content, str):
            content = "\n".join(part.text for part in content)
        turn = {"role": self.role, "content": content}
        if self.name is not None:
            turn["name"] = self.name
        return turn


class ChatBody(Wishes, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/chat/completions`"""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    # Taken where they say what happens anyway:
    top_logprobs: Any = None
    modalities: Any = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    functions: Any = None
    function_call: Any = None
    store: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None


class CompletionBody(Wishes, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/completions`"""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
    # Taken where they say what happens anyway:
    echo: Any = None
    suffix: Any = None


class EmbeddingBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/embeddings`"""

    input: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    priority: int | str | None = None
    slo_deadline_ms: Milliseconds | None = None
    timeout_ms: Milliseconds | None = None
    # Taken where it says what happens anyway:
    dimensions: Any = None


NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "metadata": ({},),
    "include_stop_str_in_output": (False,),
    "spaces_between_special_tokens": (True,),
    "add_special_tokens": (True,),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "store": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "echo": (False,),
    "suffix": ("",),
    "dimensions": (),
}
"""Values, beside null, that change nothing here. Everything else in these fields is refused."""

_NEUTRAL_OF = {
    body: tuple(f.name for f in msgspec.structs.fields(body) if f.name in NEUTRAL)
    for body in (ChatBody, CompletionBody, EmbeddingBody)
}


def refuse_unsupported(body: ChatBody | CompletionBody | EmbeddingBody) -> None:
    """400 for the first field that wishes for what nothing here does."""
    for name in _NEUTRAL_OF[type(body)]:
        value = getattr(body, name)
        if value is None:
            continue
        taken = NEUTRAL[name]
        if not any(value == one and type(value) is type(one) for one in taken):
            written = msgspec.json.encode(value).decode()[:80]
            words = " or ".join(msgspec.json.encode(one).decode() for one in taken)
            fix = f"leave it out, or write {words}" if words else "leave it out"
            raise HttpError(
                400,
                f"{name}={written} is not supported here; {fix}",
                code="unsupported_parameter",
                param=name,
            )


# -- answers ----------------------------------------------------------------------------------


class CachedTokens(Struct, frozen=True):
    """Of the prompt, what a prefix cache gave."""

    cached_tokens: int


class Counted(Struct, frozen=True, omit_defaults=True):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int | UnsetType = UNSET
    prompt_tokens_details: CachedTokens | UnsetType = UNSET


class Said(Struct, frozen=True):
    """What the model said."""

    role: str
    content: str


class ChatChoice(Struct, frozen=True, kw_only=True):
    """The answer."""

    index: int = 0
    message: Said
    logprobs: None = None
    finish_reason: str
    token_ids: list[int] | UnsetType = UNSET


class ChatAnswer(Struct, frozen=True, kw_only=True):
    """To a chat."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Counted
    prompt_token_ids: list[int] | UnsetType = UNSET


class Delta(Struct, frozen=True):
    """What is new."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatPiece(Struct, frozen=True, kw_only=True):
    """Of the answer."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatChunk(Struct, frozen=True, kw_only=True):
    """One event of a chat's stream."""

    id: str
    object: str = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatPiece]
    usage: Counted | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET


class TextChoice(Struct, frozen=True, kw_only=True):
    """An answer, or a piece of one."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: str | None = None
    prompt_token_ids: list[int] | UnsetType = UNSET
    token_ids: list[int] | UnsetType = UNSET


class TextAnswer(Struct, frozen=True, kw_only=True):
    """To a completion, or one event of its stream."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Counted | UnsetType = UNSET


class Vector(Struct, frozen=True, kw_only=True):
    """One embedding; as base64 of little-endian float32 where that was asked for."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(Struct, frozen=True, kw_only=True):
    """In the order of the input."""

    object: str = "list"
    data: list[Vector]
    model: str
    usage: Counted


class ModelCard(Struct, frozen=True, kw_only=True):
    """A model that is served."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "sage-llm-ops"
    max_model_len: int | None = None


class ModelList(Struct, frozen=True, kw_only=True):
    """Every model."""

    object: str = "list"
    data: list[ModelCard]
