"""The JSON that OpenAI-compatible servers answer with: what we read of it."""

from __future__ import annotations

from typing import Any

import msgspec

LONGEST_MESSAGE = 500

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises over garbage: no JSON, no UTF-8, nested without end."""


class Delta(msgspec.Struct):
    """A piece of a chat answer."""

    content: str | None = None


class Choice(msgspec.Struct):
    """A piece of an answer: `text` of a completion, `delta` of a chat."""

    index: int = 0
    text: str | None = None
    delta: Delta | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    """The prompt as the server read it, in vLLM's first piece."""
    finish_reason: str | None = None

    @property
    def written(self) -> str:
        """The text of the piece, whichever endpoint it came from."""
        return self.text or (self.delta.content if self.delta else None) or ""


class Details(msgspec.Struct):
    """Of the prompt."""

    cached_tokens: int | None = None


class Counts(msgspec.Struct):
    """The server's `usage`."""

    prompt_tokens: int
    completion_tokens: int | None = 0
    prompt_tokens_details: Details | None = None

    @property
    def cached(self) -> int:
        """Prompt tokens that its prefix cache gave, as far as it says."""
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class Chunk(msgspec.Struct):
    """One event of a stream."""

    choices: list[Choice] | None = None
    usage: Counts | None = None
    error: Any = None


class Vector(msgspec.Struct):
    """One embedding."""

    embedding: list[float]


class Embeddings(msgspec.Struct):
    """Answer of `/v1/embeddings`."""

    data: list[Vector]
    usage: Counts | None = None


class Model(msgspec.Struct):
    """One of the models served."""

    id: str
    owned_by: str = ""
    max_model_len: int | None = None


class Models(msgspec.Struct):
    """Answer of `/v1/models`."""

    data: list[Model]


CODES = {
    400: "invalid_request",
    404: "no_instance",
    413: "invalid_request",
    422: "invalid_request",
    429: "overloaded",
    503: "overloaded",
}


def code_of(status: object) -> str:
    """Our name for an HTTP status. What another server may answer better is tried again there."""
    return CODES.get(status, "engine_failed") if isinstance(status, int) else "engine_failed"


def message_of(body: bytes) -> str:
    """The sentence in an error's body, whichever of the usual places it stands in."""
    try:
        return sentence(msgspec.json.decode(body))
    except UNREADABLE:
        return body.decode(errors="replace").strip()[:LONGEST_MESSAGE] or "no reason given"


def sentence(found: Any) -> str:
    """`message_of` for what is decoded already."""
    while isinstance(found, dict):
        inner = next((found[key] for key in ("error", "message", "detail") if found.get(key)), None)
        if inner is None:
            break
        found = inner
    return str(found).strip()[:LONGEST_MESSAGE] or "no reason given"
