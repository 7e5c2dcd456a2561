"""From a body and headers to an accepted request."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from sage_llm_ops.core.requests import as_request, is_traceparent
from sage_llm_ops.engines.tokenizers import ByteTokenizer
from sage_llm_ops.service.gateway.catalogue import models, names
from sage_llm_ops.service.gateway.errors import HttpError
from sage_llm_ops.service.gateway.openai import ChatBody, CompletionBody, EmbeddingBody
from sage_llm_ops.types.errors import RequestError
from sage_llm_ops.types.requests import (
    Request,
    RequestMetadata,
    RequestPriority,
    SamplingParams,
    Task,
)

if TYPE_CHECKING:
    from sage_llm_ops.pipeline.handle import RequestHandle
    from sage_llm_ops.service.gateway.app import Gateway
    from sage_llm_ops.service.gateway.routes import Call

LONG_PROMPT_BYTES = 2000
"""Bodies from which a tokenizer that lets go of the GIL gets a thread of the pool: 2 kB take half a
millisecond, the way there and back a tenth."""

_SAMPLING = tuple(
    f.name for f in msgspec.structs.fields(SamplingParams) if f.name not in ("max_tokens", "stop")
)
COMPLETION_TOKENS = 16
"""Of a completion that names no `max_tokens`, as OpenAI has it."""


@dataclass(slots=True)
class Prompt:
    """One prompt: messages, text or token ids."""

    messages: list[dict[str, Any]] | None = None
    text: str = ""
    ids: list[int] | None = None


@dataclass(slots=True)
class Order:
    """What a call asks of the plane, for all of its prompts."""

    model: str
    sampling: SamplingParams | None
    task: Task
    fields: dict[str, Any]
    """Of `RequestMetadata`: priority, tenant, deadlines."""
    limited: bool
    """Whether the client itself said `max_tokens`."""
    wants_ids: bool = False


def served_model(gateway: Gateway, name: str | None) -> str:
    """The model that a name means here; 404, or what `unknown_model` says, for an unknown one."""
    plane, config = gateway.plane, gateway.config
    every = names(plane)
    if name in every:
        return name
    if name is not None and config.unknown_model == "alias":
        name = config.alias_model
        if name in every:
            return name
    if name is not None:
        known = ", ".join(map(repr, every)) or "none"
        raise HttpError(
            404,
            f"model {name!r} is not served here; models here: {known}",
            code="model_not_found",
            param="model",
        )
    served = models(plane)
    if len(served) == 1:
        return served[0]
    if not served:
        raise HttpError(503, "no engine is registered; register one first", code="no_engine")
    raise HttpError(
        400,
        f"several models are served here: {', '.join(map(repr, served))}; say which in `model`",
        code="model_needed",
        param="model",
    )


def order(
    gateway: Gateway, call: Call, body: ChatBody | CompletionBody | EmbeddingBody, task: Task
) -> Order:
    """Everything but the prompt."""
    model = served_model(gateway, body.model)
    gateway.check_serving(model)
    fields = _fields(call, body)
    if isinstance(body, EmbeddingBody):
        return Order(model, None, task, fields, limited=True)
    sampling, limited = _sampling(gateway, body)
    return Order(model, sampling, task, fields, limited, wants_ids=bool(body.return_token_ids))


def _sampling(gateway: Gateway, body: ChatBody | CompletionBody) -> tuple[SamplingParams, bool]:
    given: dict[str, Any] = {
        name: value for name in _SAMPLING if (value := getattr(body, name)) is not None
    }
    if given.get("top_k") == -1:  # vLLM's word for "off"
        given["top_k"] = 0
    if body.stop is not None:
        given["stop"] = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if body.stop_token_ids is not None:
        given["stop_token_ids"] = tuple(body.stop_token_ids)
    limit, default = body.max_tokens, COMPLETION_TOKENS
    if isinstance(body, ChatBody):
        default = gateway.config.default_max_tokens
        if body.max_completion_tokens is not None:
            if limit not in (None, body.max_completion_tokens):
                raise HttpError(
                    400,
                    f"max_tokens={limit} and max_completion_tokens={body.max_completion_tokens} "
                    "contradict each other; send one of them",
                    code="invalid_value",
                    param="max_tokens",
                )
            limit = body.max_completion_tokens
    if limit is None:
        default = max(default, given.get("min_tokens", 0))
    params = SamplingParams(max_tokens=default if limit is None else limit, **given)
    return params.checked(), limit is not None


def _fields(call: Call, body: ChatBody | CompletionBody | EmbeddingBody) -> dict[str, Any]:
    """A header beats the body: it is what a proxy in front can set."""
    headers = call.request.headers
    return {
        "user_id": _tenant(call, headers.get("x-tenant"), body.user),
        "priority": _priority(headers, body.priority),
        "slo_deadline_ms": _number(headers, "x-slo-ms", body.slo_deadline_ms),
        "timeout_ms": body.timeout_ms,
        "trace": _trace(headers.get("traceparent", "")),
    }


def _tenant(call: Call, said: str | None, user: str | None) -> str | None:
    """A key that is bound to a tenant sends for no other, or quotas and fair shares were anybody's."""
    key = call.key
    bound = None if key is None else key.tenant
    if key is None or bound is None:
        return said or user or (None if key is None else key.name)
    if said not in (None, bound):
        raise HttpError(
            403,
            f"x-tenant: {said!r}, but key {key.name!r} sends for tenant {bound!r} only; leave the "
            "header out, or use that tenant's key",
            code="other_tenant",
        )
    return bound


def _trace(given: str) -> str:
    """One that cannot be read is as if it had not come: so the standard wants it."""
    return given if is_traceparent(given) else ""


def _priority(headers: Mapping[str, str], given: int | str | None) -> Any:
    """A name, or its number."""
    said: int | str | None = headers.get("x-priority", given)
    if said is None:
        return RequestPriority.NORMAL
    short = isinstance(said, str) and said.isdecimal() and len(said) < 10
    return int(said) if short else said


def _number(headers: Mapping[str, str], name: str, given: float | None) -> float | None:
    said = headers.get(name)
    if said is None:
        return given
    try:
        value = float(said)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1e10:
        raise HttpError(
            400,
            f"{name}: {said} must be a number of milliseconds above 0",
            code="invalid_value",
            param=name,
        )
    return value


async def accept(
    gateway: Gateway, call: Call, wanted: Order, prompts: list[Prompt]
) -> list[RequestHandle]:
    """Every prompt accepted, or none: what was accepted before a refusal is cancelled."""
    tokenizer = gateway.plane.tokenizer(wanted.model)
    long = len(call.request.body) > LONG_PROMPT_BYTES and not isinstance(tokenizer, ByteTokenizer)
    handles: list[RequestHandle] = []
    try:
        for number, prompt in enumerate(prompts):
            identity = call.request.id if len(prompts) == 1 else f"{call.request.id}-{number}"
            metadata = RequestMetadata(
                request_id=identity,
                prompt=prompt.text,
                prompt_token_ids=prompt.ids,
                messages=prompt.messages,
                sampling_params=wanted.sampling,
                task=wanted.task,
                **wanted.fields,
            )
            if long:
                loop = asyncio.get_running_loop()
                request = await loop.run_in_executor(
                    gateway.pool, as_request, metadata, wanted.model, tokenizer
                )
            else:
                request = as_request(metadata, wanted.model, tokenizer)
            _fit(gateway, wanted, request)
            handles.append(gateway.plane.submit_request(request, tokenizer))
            gateway.senders.add(identity, call.key)
            if number % 64 == 63:
                await asyncio.sleep(0)  # a call of many prompts does not keep the others waiting
    except BaseException:
        forget(gateway, handles)
        raise
    return handles


def _fit(gateway: Gateway, wanted: Order, request: Request) -> None:
    """Too long a prompt is refused, and so are ids where there are none; a default of ours gives way
    to the prompt."""
    if wanted.wants_ids and request.estimated:
        raise HttpError(
            400,
            f"return_token_ids=true: nobody here has the tokenizer of {wanted.model!r}, whose "
            "server answers with text; leave it out",
            code="unsupported_parameter",
            param="return_token_ids",
        )
    most = gateway.config.max_prompt_tokens
    if most is not None and request.n_prompt > most:
        raise HttpError(
            400,
            f"the prompt has {request.n_prompt} tokens and max_prompt_tokens={most}; shorten it, "
            "or raise it",
            code="context_length_exceeded",
            param="messages" if wanted.limited is False else "prompt",
        )
    if not wanted.limited and not request.estimated:
        room = gateway.model_len(wanted.model) - request.n_prompt
        if 0 < room < request.sampling.max_tokens and request.sampling.min_tokens <= room:
            request.sampling = msgspec.structs.replace(request.sampling, max_tokens=room)


def forget(gateway: Gateway, handles: list[RequestHandle]) -> None:
    """Nobody waits for these any more."""
    for handle in handles:
        if not handle.done():
            try:
                gateway.plane.cancel(handle.request_id)
            except RequestError:
                pass  # it ended just now
