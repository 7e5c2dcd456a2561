"""Carries the requests of one payload out, and says as plain values what became of each."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from sage_llm_ops.core import ControlPlane
from sage_llm_ops.core.coordinator import as_dict
from sage_llm_ops.core.requests import as_request
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.service.payload import Batch
from sage_llm_ops.types.errors import Overloaded, RequestError, RequestFailed, UnknownRequest
from sage_llm_ops.types.requests import RequestMetadata
from sage_llm_ops.types.results import RequestResult

Answer = dict[str, Any]
Accepted = RequestHandle | RequestError


def wait(control: ControlPlane, batch: Batch) -> Answer | list[Answer]:
    """Submit all, then wait for all on this thread."""
    _check_shared(control, batch)
    accepted: list[Accepted] = []
    try:
        _submit(control, batch, accepted, threading.Event())
        told = [_ended(one) for one in accepted]
    except BaseException:  # an interrupt: nobody will read the rest
        _cancel(control, accepted)
        raise
    return _shaped(batch, told)


async def gather(control: ControlPlane, batch: Batch) -> Answer | list[Answer]:
    """The same without blocking the event loop: long prompts are tokenised beside it."""
    await asyncio.to_thread(_check_shared, control, batch)
    accepted: list[Accepted] = []
    over = threading.Event()
    try:
        await asyncio.to_thread(_submit, control, batch, accepted, over)
        for one in accepted:
            if isinstance(one, RequestHandle):
                await _end_of(one)
    except BaseException:
        over.set()  # the thread may still be submitting
        _cancel(control, list(accepted))
        raise
    return _shaped(batch, [_ended(one) for one in accepted])


def _check_shared(control: ControlPlane, batch: Batch) -> None:
    """Raise what is wrong with every request alike, before any is accepted: the model, limits,
    sampling. Checked on the first, with a stand-in for its input, which is its own matter."""
    first = batch.requests[0]
    model = control.model_for(first.model_name)
    stand_in = dataclasses.replace(first, prompt="", messages=None, prompt_token_ids=[0])
    as_request(stand_in, model, control.tokenizer(model))


def _submit(
    control: ControlPlane, batch: Batch, accepted: list[Accepted], over: threading.Event
) -> None:
    """More than may be in flight at a time are no overload: the rest follows as places are free.
    `over`: nobody wants the answers any more."""
    ahead: deque[RequestHandle] = deque()
    for request in batch.requests:
        one = _accept(control, request)
        while isinstance(one, Overloaded) and ahead and not over.is_set():
            _ended(ahead.popleft())
            one = _accept(control, request)
        accepted.append(one)
        if over.is_set():
            return _cancel(control, [one])
        if isinstance(one, RequestHandle):
            ahead.append(one)


def _accept(control: ControlPlane, request: RequestMetadata) -> Accepted:
    try:
        return control.submit(request)
    except RequestError as error:
        error.request_id = error.request_id or request.request_id
        return error


async def _end_of(handle: RequestHandle) -> None:
    try:
        await handle
    except RequestError:
        pass  # read again, with the others


def _ended(one: Accepted) -> RequestResult | RequestError:
    if isinstance(one, RequestError):
        return one
    try:
        return one.result()
    except RequestError as error:
        return error


def _shaped(batch: Batch, told: list[RequestResult | RequestError]) -> Answer | list[Answer]:
    if not batch.single:
        return [_plain(one) for one in told]
    if isinstance(told[0], RequestError):
        raise told[0]
    return _plain(told[0])


def _plain(one: RequestResult | RequestError) -> Answer:
    if isinstance(one, RequestError):
        partial = one.partial if isinstance(one, RequestFailed) else ()
        return {
            "request_id": one.request_id,
            "error": {"code": one.code, "message": str(one)},
            "token_ids": list(partial),
        }
    answer = {**as_dict(one), "token_ids": list(one.token_ids)}
    if one.embedding is not None:
        del answer["text"], answer["token_ids"]
        answer["embedding"] = list(one.embedding)
    return answer


def _cancel(control: ControlPlane, accepted: Iterable[Accepted]) -> None:
    for one in accepted:
        if isinstance(one, RequestHandle) and not one.done():
            with suppress(UnknownRequest):  # it ended just now, and so many with it
                control.cancel(one.request_id)
