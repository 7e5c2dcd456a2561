"""From what a caller writes to what travels: validated, named, tokenised."""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from sage_llm_ops.engines.base import Tokenizer
from sage_llm_ops.engines.tokenizers import TextTokenizer
from sage_llm_ops.prefix_reuse.hashing import as_tokens
from sage_llm_ops.types.errors import InvalidRequest
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import (
    Request,
    RequestMetadata,
    RequestPriority,
    SamplingParams,
    Task,
)

OURS = tuple(field.name for field in msgspec.structs.fields(SamplingParams))
_OURS = frozenset(OURS)


def new_id() -> RequestId:
    """For a request whose caller gave none."""
    return RequestId(f"req-{uuid.uuid4().hex[:16]}")


def as_request(metadata: RequestMetadata, model: str, tokenizer: Tokenizer) -> Request:
    """The request, or `InvalidRequest` that names what is wrong. Runs on the caller's thread."""
    identity = _identity(metadata.request_id)
    _refuse_unbuilt(metadata, identity)
    for name in ("prompt", "user_id"):
        value = getattr(metadata, name)
        if value is not None and not isinstance(value, str):
            raise InvalidRequest(f"{name}={value!r} must be a string", request_id=identity)
    try:
        task = Task(metadata.task)
    except ValueError:
        known = ", ".join(t.value for t in Task)
        raise InvalidRequest(
            f"task={metadata.task!r} is not one of {known}", request_id=identity
        ) from None
    if task is Task.EMBED and metadata.sampling_params is not None:
        raise InvalidRequest(
            "sampling_params mean nothing to task 'embed'; leave them out", request_id=identity
        )
    sampling = as_sampling(metadata.sampling_params, metadata.max_tokens)
    _one_prompt(metadata, identity)
    untokenised, ids, n_prompt = None, b"", 0
    if isinstance(tokenizer, TextTokenizer) and metadata.prompt_token_ids is None:
        untokenised = _as_written(metadata, identity)
        n_prompt = tokenizer.estimate(untokenised)
    else:
        ids = _ids(metadata, tokenizer, identity)
        n_prompt = len(ids) // 4
    return Request(
        id=identity,
        model=model,
        tokens=ids,
        n_prompt=n_prompt,
        sampling=sampling,
        priority=int(as_priority(metadata.priority)),
        tenant=metadata.user_id or "",
        slo_ms=_positive("slo_deadline_ms", metadata.slo_deadline_ms, identity),
        timeout_s=_seconds(_positive("timeout_ms", metadata.timeout_ms, identity)),
        task=task.value,
        pin=metadata.pin or "",
        trace=_trace(metadata.trace, identity),
        estimated=isinstance(tokenizer, TextTokenizer),
        untokenised=untokenised,
        cost_budget=_positive("cost_budget", metadata.cost_budget, identity),
    )


def _refuse_unbuilt(metadata: RequestMetadata, identity: RequestId) -> None:
    """A wish that nothing here reads yet is refused, not accepted and ignored."""
    if metadata.parallelism_hint is not None:
        raise InvalidRequest(
            f"parallelism_hint={metadata.parallelism_hint!r} is not honoured yet; leave it out",
            request_id=identity,
        )


def as_priority(value: Any) -> RequestPriority:
    """By number, member, or name in any case."""
    if isinstance(value, RequestPriority):
        return value
    if isinstance(value, str):
        found = RequestPriority.__members__.get(value.upper())
    else:
        found = next((p for p in RequestPriority if p == value), None)
    if found is None:
        names = ", ".join(RequestPriority.__members__)
        raise InvalidRequest(f"priority={value!r} is not one of {names}")
    return found


def as_sampling(given: Any, max_tokens: int) -> SamplingParams:
    """Ours, a dict, or another library's object, recognised by its fields and never imported.

    An object has a `max_tokens` of its own, and that counts; a dict need not name one.
    """
    if given is None or isinstance(given, Mapping):
        fields = {"max_tokens": max_tokens, **(given or {})}
    elif isinstance(given, SamplingParams):
        fields = msgspec.structs.asdict(given)
    else:
        fields = _changed_fields(given)
    if not fields.keys() <= _OURS:
        wrong = next(name for name in fields if name not in _OURS)
        raise InvalidRequest(
            f"sampling parameter {wrong}={fields[wrong]!r} is not honoured here; "
            f"known: {', '.join(OURS)}"
        )
    for name in ("stop", "stop_token_ids"):
        value = fields.get(name)
        if isinstance(value, str):
            fields[name] = (value,)
        elif value is None:
            fields.pop(name, None)
    if fields.get("top_k") == -1:
        fields["top_k"] = 0
    try:
        return msgspec.convert(fields, SamplingParams).checked()
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"sampling parameters: {error} (given: {fields})") from None


def _changed_fields(given: Any) -> dict[str, Any]:
    """Fields of a foreign object that differ from what its class gives by default.

    `vllm.SamplingParams()` fills derived fields, so the comparison is with a fresh object; private
    ones and its bookkeeping are not the caller's wishes.
    """
    names = getattr(given, "__struct_fields__", None)
    if names is None and dataclasses.is_dataclass(given):
        names = [field.name for field in dataclasses.fields(given)]
    if names is None or "max_tokens" not in names:
        raise InvalidRequest(
            f"sampling_params of type {type(given).__name__} has no known fields; give "
            "sage_llm_ops.SamplingParams, a dict or vllm.SamplingParams"
        )
    fresh = type(given)()
    changed = {}
    for name in names:
        value = getattr(given, name)
        if name.startswith("_") or name in FOREIGN_BOOKKEEPING:
            continue
        if name == "max_tokens" or value != getattr(fresh, name):
            changed[name] = value
    return changed


FOREIGN_BOOKKEEPING = frozenset({"output_kind", "output_text_buffer_length"})
"""Set by vLLM for its own use: how it hands tokens out is ours to choose."""


def _identity(given: Any) -> RequestId:
    if given is None:
        return new_id()
    if not isinstance(given, str) or not given:
        raise InvalidRequest(f"request_id={given!r} must be a non-empty string, or left out")
    return RequestId(given)


def _one_prompt(metadata: RequestMetadata, identity: RequestId) -> None:
    given = {
        "prompt": metadata.prompt or None,
        "prompt_token_ids": metadata.prompt_token_ids,
        "messages": metadata.messages,
    }
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        said = " and ".join(named) or "none of them"
        raise InvalidRequest(
            f"give exactly one of prompt (not empty), prompt_token_ids, messages; got {said}",
            request_id=identity,
        )


def _as_written(metadata: RequestMetadata, identity: RequestId) -> str | list[dict[str, Any]]:
    """What goes to a server that tokenises itself; it travels as JSON, and is recorded so."""
    written = metadata.prompt if metadata.messages is None else list(metadata.messages)
    try:
        msgspec.json.encode(written)
        return msgspec.convert(written, str | list[dict[str, Any]])
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"prompt or messages: {error}", request_id=identity) from None


def _ids(metadata: RequestMetadata, tokenizer: Tokenizer, identity: RequestId) -> bytes:
    """The prompt as one int32 buffer."""
    given: Any = metadata.prompt_token_ids
    if isinstance(given, bytes | bytearray | memoryview) and not _is_its_own(given, tokenizer):
        raise InvalidRequest(
            "prompt_token_ids is a buffer of bytes: give a list or an array of numbers",
            request_id=identity,
        )
    ids: Any
    if given is not None:
        ids = given
    elif metadata.messages is not None:
        ids = tokenizer.chat(metadata.messages)
    else:
        ids = tokenizer.encode(metadata.prompt)
    if isinstance(ids, bytes):  # of a tokenizer whose ids are bytes
        ids = np.frombuffer(ids, dtype=np.uint8)
    try:
        return as_tokens(ids)
    except InvalidRequest as error:
        what = "" if given is None else "prompt_token_ids: "
        raise InvalidRequest(f"{what}{error}", request_id=identity) from None


def _is_its_own(given: Any, tokenizer: Tokenizer) -> bool:
    """One byte a number, or four? It is clear only where the tokenizer itself answers in bytes."""
    empty: Any = tokenizer.encode("")
    return isinstance(given, bytes) and isinstance(empty, bytes)


TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def is_traceparent(text: str) -> bool:
    """Whether it has the W3C form."""
    return TRACEPARENT.fullmatch(text) is not None


def _trace(given: str | None, identity: RequestId) -> str:
    """The W3C form, checked here: further on it is passed by without another look."""
    if not given:
        return ""
    if not isinstance(given, str) or not is_traceparent(given):
        raise InvalidRequest(
            f"trace={given!r} is no W3C traceparent; it reads VERSION-TRACE-SPAN-FLAGS with 2, 32, "
            "16 and 2 lower-case hexadecimal digits, trace and span not all 0",
            request_id=identity,
        )
    return given


def _positive(name: str, value: float | None, identity: RequestId) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or not value > 0:
        raise InvalidRequest(
            f"{name}={value!r} must be a number above 0, or left out", request_id=identity
        )
    return float(value)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1e3
