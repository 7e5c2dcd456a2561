"""Tokens as they come: each offset once, in order, to every reader, over retries too."""

from __future__ import annotations

import asyncio

import pytest

from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.types.errors import RequestCancelled
from tests.core.fleets import held, holder, request, simulated


async def collect(handle: RequestHandle) -> list[int]:
    return [token async for piece in handle.stream() for token in piece]


def collect_sync(handle: RequestHandle) -> list[int]:
    return [token for piece in handle.iter(10.0) for token in piece]


async def test_pieces_come_as_they_are_made() -> None:
    async with held("w0") as (manager, fleet):
        handle = await manager.submit(request("r"))
        worker = fleet["w0"]
        worker.wait_for("r")
        stream = handle.stream()
        for piece in ([65], [66, 67], [68]):
            worker.say("r", piece)
            assert await asyncio.wait_for(anext(stream), 10.0) == piece
        worker.end("r")
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(stream), 10.0)
        assert (await handle).text == "ABCD"


async def test_each_offset_once_for_every_reader_async_and_sync() -> None:
    async with simulated() as manager:
        handle = await manager.submit(request("r", max_tokens=300))
        first, second, third = await asyncio.gather(
            collect(handle), collect(handle), asyncio.to_thread(collect_sync, handle)
        )
        result = await handle
        assert first == second == third == list(result.token_ids)
        assert len(first) == 300
        assert await collect(handle) == first, "also after the end"
        assert collect_sync(handle) == first


async def test_a_retry_goes_on_where_it_stopped() -> None:
    async with held("w0", "w1") as (manager, fleet):
        handle = await manager.submit(request("r", max_tokens=4))
        reader = asyncio.ensure_future(collect(handle))
        first, other = (fleet[name] for name in await holder(fleet, "r"))
        first.say("r", [65, 66])
        first.break_on("r")
        assert other.wait_for("r").offset == 2
        other.say("r", [67, 68])
        other.end("r")
        assert await asyncio.wait_for(reader, 10.0) == [65, 66, 67, 68]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_the_error_comes_at_the_end_of_the_stream(sync: bool) -> None:
    async with held("w0") as (manager, fleet):
        handle = await manager.submit(request("r"))
        fleet["w0"].wait_for("r")
        fleet["w0"].say("r", [65])
        await manager.cancel_request("r")
        with pytest.raises(RequestCancelled) as ended:
            await (asyncio.to_thread(collect_sync, handle) if sync else collect(handle))
        assert ended.value.partial == (65,)


async def test_a_thread_may_wait_for_the_end_or_not_so_long() -> None:
    async with held("w0") as (manager, fleet):
        handle = await manager.submit(request("r"))
        with pytest.raises(TimeoutError, match="'r' has not ended"):
            handle.result(0.01)
        with pytest.raises(TimeoutError, match="'r': no token"):
            next(handle.iter(0.01))
        fleet["w0"].wait_for("r")
        fleet["w0"].end("r")
        assert (await asyncio.to_thread(handle.result, 10.0)).finish_reason == "length"


async def test_a_reader_may_leave() -> None:
    async with simulated() as manager:
        handle = await manager.submit(request("r", max_tokens=50))
        async for _ in handle.stream():
            break
        assert (await handle).usage.completion_tokens == 50
