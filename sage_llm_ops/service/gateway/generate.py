"""`/v1/chat/completions` and `/v1/completions`: one request of the plane a prompt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np
from msgspec import UNSET

from sage_llm_ops.service.gateway import openai, sse
from sage_llm_ops.service.gateway.bodies import read_body
from sage_llm_ops.service.gateway.errors import HttpError, error_body
from sage_llm_ops.service.gateway.intake import Order, Prompt, accept, forget, order
from sage_llm_ops.service.gateway.messages import Answer, json_answer
from sage_llm_ops.service.gateway.openai import CachedTokens, ChatBody, CompletionBody, Counted
from sage_llm_ops.service.gateway.text import StreamedText
from sage_llm_ops.types.requests import Request, Task
from sage_llm_ops.types.results import RequestResult

if TYPE_CHECKING:
    from sage_llm_ops.pipeline.handle import RequestHandle
    from sage_llm_ops.service.gateway.app import Gateway
    from sage_llm_ops.service.gateway.routes import Call

MOST_PROMPTS = 2048
_read_chat = msgspec.json.Decoder(ChatBody).decode
_read_completion = msgspec.json.Decoder(CompletionBody).decode


async def chat(gateway: Gateway, call: Call) -> Answer | None:
    """One conversation, its next turn."""
    body = read_body(ChatBody, _read_chat, call.request.body)
    prompt = Prompt(messages=[message.plain() for message in body.messages])
    return await _generate(gateway, call, body, [prompt], ChatShape)


async def complete(gateway: Gateway, call: Call) -> Answer | None:
    """One prompt or several, as text or token ids; a choice each."""
    body = read_body(CompletionBody, _read_completion, call.request.body)
    return await _generate(gateway, call, body, prompts_of(body.prompt, "prompt"), TextShape)


def prompts_of(given: str | list[Any], field: str) -> list[Prompt]:
    """A string, strings, token ids, or lists of token ids."""
    if isinstance(given, str):
        return [Prompt(text=given)]
    kinds = {type(one) for one in given}
    if kinds == {int}:
        return [Prompt(ids=given)]
    if len(given) > MOST_PROMPTS:
        raise HttpError(
            400,
            f"{field} has {len(given)} elements and {MOST_PROMPTS} is the limit of one call; "
            "send several calls",
            code="invalid_value",
            param=field,
        )
    if kinds == {str}:
        return [Prompt(text=one) for one in given]
    if kinds == {list}:
        return [Prompt(ids=one) for one in given]
    raise HttpError(
        400,
        f"{field} mixes {', '.join(sorted(kind.__name__ for kind in kinds))}; give strings, token "
        "ids, or lists of token ids",
        code="invalid_value",
        param=field,
    )


class Shape(Protocol):
    """How answers and the events of a stream look."""

    def __init__(self, identity: str, model: str, ids: bool) -> None: ...

    def whole(self, results: list[tuple[Request, RequestResult]], usage: Counted) -> object:
        """An answer at once."""

    def opening(self, index: int, request: Request) -> object | None:
        """The event before the first text."""

    def piece(
        self, index: int, request: Request | None, text: str, ids: list[int], end: str | None
    ) -> object:
        """New text; `request` with the first of its prompt, `end` with the last."""

    def counted(self, usage: Counted) -> object:
        """The event that counts tokens."""


class ChatShape:
    """Of chats."""

    def __init__(self, identity: str, model: str, ids: bool) -> None:
        self._id, self._model, self._ids = f"chatcmpl-{identity}", model, ids
        self._created = int(time.time())

    def whole(self, results: list[tuple[Request, RequestResult]], usage: Counted) -> object:
        ((request, result),) = results
        choice = openai.ChatChoice(
            message=openai.Said("assistant", result.text),
            finish_reason=result.finish_reason,
            token_ids=list(result.token_ids) if self._ids else UNSET,
        )
        return openai.ChatAnswer(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[choice],
            usage=usage,
            prompt_token_ids=_prompt_ids(request) if self._ids else UNSET,
        )

    def opening(self, index: int, request: Request) -> object | None:
        piece = openai.ChatPiece(delta=openai.Delta(role="assistant", content=""))
        prompt = _prompt_ids(request) if self._ids else UNSET
        return self._chunk([piece], prompt_token_ids=prompt)

    def piece(
        self, index: int, request: Request | None, text: str, ids: list[int], end: str | None
    ) -> object:
        delta = openai.Delta(content=text) if text or end is None else openai.Delta()
        token_ids = ids if self._ids else UNSET
        piece = openai.ChatPiece(delta=delta, finish_reason=end, token_ids=token_ids)
        return self._chunk([piece])

    def counted(self, usage: Counted) -> object:
        return self._chunk([], usage=usage)

    def _chunk(self, choices: list[openai.ChatPiece], **more: Any) -> object:
        return openai.ChatChunk(
            id=self._id, created=self._created, model=self._model, choices=choices, **more
        )


class TextShape:
    """Of completions."""

    def __init__(self, identity: str, model: str, ids: bool) -> None:
        self._id, self._model, self._ids = f"cmpl-{identity}", model, ids
        self._created = int(time.time())

    def whole(self, results: list[tuple[Request, RequestResult]], usage: Counted) -> object:
        choices = [
            self._choice(index, request, result.text, list(result.token_ids), result.finish_reason)
            for index, (request, result) in enumerate(results)
        ]
        return self._answer(choices, usage=usage)

    def opening(self, index: int, request: Request) -> object | None:
        return None

    def piece(
        self, index: int, request: Request | None, text: str, ids: list[int], end: str | None
    ) -> object:
        return self._answer([self._choice(index, request, text, ids, end)])

    def counted(self, usage: Counted) -> object:
        return self._answer([], usage=usage)

    def _choice(
        self, index: int, request: Request | None, text: str, ids: list[int], end: str | None
    ) -> openai.TextChoice:
        return openai.TextChoice(
            index=index,
            text=text,
            finish_reason=end,
            prompt_token_ids=_prompt_ids(request) if self._ids and request else UNSET,
            token_ids=ids if self._ids else UNSET,
        )

    def _answer(self, choices: list[openai.TextChoice], **more: Any) -> object:
        return openai.TextAnswer(
            id=self._id, created=self._created, model=self._model, choices=choices, **more
        )


def usage_of(results: list[RequestResult], completion: bool = True) -> Counted:
    """All of a call together."""
    prompt = sum(result.usage.prompt_tokens for result in results)
    made = sum(result.usage.completion_tokens for result in results)
    cached = sum(result.usage.cached_tokens for result in results)
    if not completion:
        return Counted(prompt, prompt)
    return Counted(prompt, prompt + made, made, CachedTokens(cached))


def _prompt_ids(request: Request) -> list[int]:
    ids: list[int] = np.frombuffer(request.tokens, dtype="<i4").tolist()
    return ids


async def _generate(
    gateway: Gateway,
    call: Call,
    body: ChatBody | CompletionBody,
    prompts: list[Prompt],
    kind: type[Shape],
) -> Answer | None:
    openai.refuse_unsupported(body)
    if body.stream_options is not None and not body.stream:
        raise HttpError(
            400,
            "stream_options means nothing without stream=true; leave it out",
            code="invalid_value",
            param="stream_options",
        )
    wanted = order(gateway, call, body, Task.GENERATE)
    shape = kind(call.request.id, wanted.model, bool(body.return_token_ids))
    handles = await accept(gateway, call, wanted, prompts)
    try:
        if body.stream:
            options = body.stream_options
            counts = bool(options is not None and options.include_usage)
            await _stream(gateway, call, wanted, handles, shape, counts)
            return None
        results = await results_of(handles)
        pairs = [(handle.request, result) for handle, result in zip(handles, results, strict=True)]
        return json_answer(shape.whole(pairs, usage_of(results)))
    finally:
        forget(gateway, handles)


async def results_of(handles: list[RequestHandle]) -> list[RequestResult]:
    """All of them; the first error is raised."""
    if len(handles) == 1:
        return [await handles[0]]
    return await asyncio.gather(*(_result(handle) for handle in handles))


async def _result(handle: RequestHandle) -> RequestResult:
    return await handle


async def _stream(
    gateway: Gateway,
    call: Call,
    wanted: Order,
    handles: list[RequestHandle],
    shape: Shape,
    counts: bool,
) -> None:
    """What goes wrong before the first event has a status of its own; later it is an event."""
    connection, request = call.connection, call.request
    begun = False
    one = len(handles) == 1
    read = _one(gateway, wanted, handles[0], 0, shape) if one else None
    async with aclosing(read or _merged(gateway, wanted, handles, shape)) as events:
        try:
            async for data in events:
                if begun:
                    await connection.send(request, data)
                else:
                    begun = True
                    connection.begin(request, data)
            last = sse.DONE
            if counts:
                usage = usage_of([handle.outcome() for handle in handles])
                last = sse.event(shape.counted(usage)) + last
        except ConnectionError:
            raise asyncio.CancelledError from None
        except Exception as error:
            if not begun:
                raise
            gateway.note(error, request)
            last = sse.event(error_body(error)) + sse.DONE
    connection.end(request, last)


async def _merged(
    gateway: Gateway, wanted: Order, handles: list[RequestHandle], shape: Shape
) -> AsyncGenerator[bytes, None]:
    """The events of several answers as they come; the first error ends all."""
    queue: asyncio.Queue[tuple[bytes, Exception | None]] = asyncio.Queue(maxsize=len(handles))

    async def pump(index: int, handle: RequestHandle) -> None:
        end: Exception | None = None
        try:
            async for data in _one(gateway, wanted, handle, index, shape):
                await queue.put((data, None))
        except Exception as error:
            end = error
        await queue.put((b"", end))

    tasks = [asyncio.create_task(pump(*pair)) for pair in enumerate(handles)]
    try:
        left = len(tasks)
        while left:
            data, error = await queue.get()
            if error is not None:
                raise error
            if data:
                yield data
            else:
                left -= 1
    finally:
        for task in tasks:
            task.cancel()


async def _one(
    gateway: Gateway, wanted: Order, handle: RequestHandle, index: int, shape: Shape
) -> AsyncGenerator[bytes, None]:
    """The events of one answer. Text that is not certain yet delays nothing but itself."""
    request = handle.request
    decoder = gateway.plane.tokenizer(wanted.model).decoder(
        skip_special_tokens=request.sampling.skip_special_tokens
    )
    text = StreamedText(decoder, request.sampling.stop)
    first: Request | None = request
    reading: Any = handle.stream()
    async with aclosing(reading) as pieces:
        async for ids in pieces:
            opening = shape.opening(index, request) if first is not None else None
            data = sse.event(opening) if opening is not None else b""
            yield data + sse.event(shape.piece(index, first, text.push(ids), ids, None))
            first = None
    end = handle.outcome().finish_reason
    opening = shape.opening(index, request) if first is not None else None
    data = sse.event(opening) if opening is not None else b""
    yield data + sse.event(shape.piece(index, first, text.flush(), [], end))
