"""The caller's side: each token once, one end, and readers that cannot hurt anyone."""

from __future__ import annotations

import asyncio
import threading
import traceback

import pytest

from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import (
    DuplicateRequest,
    IntegrityError,
    RequestCancelled,
    RequestFailed,
    WorkerLost,
)
from sage_llm_ops.types.events import Job, Outcome
from sage_llm_ops.types.requests import RequestStatus


def new() -> RequestHandle:
    return RequestHandle(make_request("a"))


def end(handle: RequestHandle, code: str = "", message: str = "why") -> None:
    job = Job(handle.request, 1)
    handle.finish(Outcome(1, 2.0, job, code=code, message=message, finish_reason="stop"))


def test_offsets_are_taken_once_and_in_order() -> None:
    handle = new()
    handle.push(0, [1, 2])
    for offset in (0, 1, 3):
        with pytest.raises(IntegrityError, match=f"token {offset} came where 2 was due"):
            handle.push(offset, [9])
    handle.push(2, [3])
    assert handle.tokens == [1, 2, 3]


def test_one_end() -> None:
    handle = new()
    with pytest.raises(IntegrityError, match="has not ended"):
        handle.outcome()
    end(handle)
    with pytest.raises(IntegrityError, match="'a' ended twice"):
        end(handle)
    assert handle.outcome() is handle.outcome()


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        ("cancelled", RequestCancelled, RequestStatus.CANCELLED),
        ("worker_lost", WorkerLost, RequestStatus.FAILED),
        ("duplicate_request", DuplicateRequest, RequestStatus.FAILED),
        ("integrity", RequestFailed, RequestStatus.FAILED),
        ("no such code", RequestFailed, RequestStatus.FAILED),
    ],
)
def test_codes_become_errors(code: str, kind: type[Exception], status: RequestStatus) -> None:
    handle = new()
    handle.push(0, [7])
    end(handle, code)
    with pytest.raises(kind, match="why") as caught:
        handle.result()
    assert handle.status is status
    if isinstance(caught.value, RequestFailed):
        assert caught.value.partial == (7,)


def test_the_error_does_not_grow_with_its_readers() -> None:
    handle = new()
    end(handle, "worker_lost")
    depths = []
    for _ in range(5):
        with pytest.raises(WorkerLost) as caught:
            handle.outcome()
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(depths)) == 1


def test_waiting_in_a_thread() -> None:
    handle = new()
    with pytest.raises(TimeoutError, match=r"'a' has not ended within 0.01 s"):
        handle.result(0.01)
    threading.Timer(0.02, end, (handle,)).start()
    assert handle.result(5.0).finish_reason == "stop"


def test_pieces_in_a_thread() -> None:
    handle = new()

    def produce() -> None:
        for n in range(50):
            handle.push(n, [n])
        end(handle)

    thread = threading.Thread(target=produce)
    thread.start()
    assert [token for piece in handle.iter(5.0) for token in piece] == list(range(50))
    thread.join()
    with pytest.raises(TimeoutError, match=r"no token for 0.01 s"):
        list(new().iter(0.01))


async def test_pieces_on_a_loop_and_the_error_at_their_end() -> None:
    handle = new()
    handle.push(0, [1])

    def produce() -> None:
        handle.push(1, [2, 3])
        end(handle, "worker_lost")

    got: list[int] = []
    thread = threading.Thread(target=produce)
    with pytest.raises(WorkerLost):
        async for piece in handle.stream():
            got += piece
            if got == [1]:
                thread.start()
    assert got == [1, 2, 3]
    thread.join()


async def test_several_readers_and_one_that_gives_up() -> None:
    handle = new()
    waiters = [asyncio.ensure_future(_wait(handle)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.sleep(0)
    end(handle)
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] is results[2]


async def _wait(handle: RequestHandle) -> object:
    return await handle


def test_a_reader_whose_loop_is_closed_hurts_nobody() -> None:
    """`asyncio.run` that ends with a stream half read: neither the worker's thread, nor the graph's,
    nor another reader may notice."""
    handle = new()

    async def leave() -> None:
        handle.push(0, [1])
        async for _ in handle.stream():
            break

    loop = asyncio.new_event_loop()
    stream = handle.stream()
    handle.push(0, [1])
    assert loop.run_until_complete(anext(stream)) == [1]
    loop.close()
    told = threading.Event()
    handle.subscribe(told.set)
    handle.push(1, [2])
    assert told.is_set()
    end(handle)
    assert handle.result().token_ids == (1, 2)


def test_subscribe_after_the_end_is_called_at_once() -> None:
    handle = new()
    end(handle)
    called: list[int] = []
    handle.unsubscribe(handle.subscribe(lambda: called.append(1)))
    assert called == [1]


def test_timings_and_usage_are_those_of_the_job() -> None:
    handle = new()
    handle.request.arrived = 1.0
    assert handle.timings.ended is None
    job = Job(handle.request, 1)
    job.placed, job.first_token, job.cached, job.attempt = 1.25, 1.5, 3, 2
    handle.push(0, [5, 6])
    handle.finish(Outcome(1, 2.0, job, finish_reason="length"))
    result = handle.result()
    assert (result.timings.queue_s, result.timings.ttft_s) == (0.25, 0.5)
    assert (result.usage.completion_tokens, result.usage.cached_tokens) == (2, 3)
    assert result.attempts == 2
