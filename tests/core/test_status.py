"""R10, R11: what is told of a request, while it runs and after it ended."""

from __future__ import annotations

import asyncio

import pytest

from sage_llm_ops import RequestStatus
from sage_llm_ops.core.finished import Finished
from sage_llm_ops.engines.tokenizers import ByteTokenizer
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.testing import ManualClock
from sage_llm_ops.types.errors import (
    DeadlineExpired,
    EngineFailed,
    InvalidRequest,
    NoInstance,
    Overloaded,
    RequestCancelled,
    UnknownRequest,
)
from sage_llm_ops.types.wire import Accepted
from tests.core.fleets import held, instance, request, simulated, until
from tests.core.test_request_rules import made


async def test_from_queued_to_completed() -> None:
    async with held() as (manager, fleet):
        manager.register_instance(instance("w0", max_concurrency=1))
        await manager.submit_request(request("first"))
        await manager.submit_request(request("second"))
        worker = fleet["w0"]
        worker.wait_for("first")
        await until(lambda: len(manager.pending_queue) == 1)
        waiting = await manager.get_request_status("second")
        assert (waiting.state, waiting.output, waiting.error) == (RequestStatus.QUEUED, None, None)
        running = await manager.get_request_status("first")
        assert (running.state, running.output, running.instance_id) == ("running", None, "w0")
        worker.say("first", [79, 75])
        assert (await manager.get_request_status("first")).output == "OK"
        worker.end("first")
        await manager.wait_for_result("first", 10.0)
        ended = await manager.get_request_status("first")
        assert ended.state in ["completed", "failed"]
        assert (ended.state, ended.output, ended.error) == ("completed", "OK", None)
        assert ended.timings is not None and ended.timings.latency_s is not None
        assert worker.wait_for("second").request == "second"


async def test_scheduled_until_the_engine_holds_it() -> None:
    async with held("w0") as (manager, fleet):
        fleet["w0"].accept = lambda node: None  # type: ignore[method-assign]
        await manager.submit_request(request("r"))
        node = fleet["w0"].wait_for("r")
        assert (await manager.get_request_status("r")).state is RequestStatus.SCHEDULED
        fleet["w0"].report(Accepted(node.id))
        assert (await manager.get_request_status("r")).state is RequestStatus.RUNNING
        fleet["w0"].end("r")
        timings = (await manager.wait_for_result("r", 10.0)).timings
        assert timings.placed is not None and timings.accepted is not None
        assert timings.placed <= timings.accepted <= (timings.ended or 0.0)


async def test_the_result_is_the_text_when_it_is_printed() -> None:
    async with simulated() as manager:
        result = await manager.process_request("Hello", {"max_tokens": 6})
        assert f"{result}" == str(result) == result.text
        assert (len(result.text), len(result.token_ids)) == (6, 6)
        assert (result.finish_reason, result.usage.total_tokens) == ("length", 11)
        assert await manager.wait_for_result(result.request_id) is result


async def test_waiting_may_time_out_and_the_request_goes_on() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r"))
        with pytest.raises(TimeoutError):
            await manager.wait_for_result("r", 0.01)
        fleet["w0"].wait_for("r")
        fleet["w0"].end("r")
        assert (await manager.wait_for_result("r", 10.0)).text == ""


async def test_only_a_cancel_is_cancelled() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r"))
        fleet["w0"].wait_for("r")
        fleet["w0"].say("r", [79, 75])
        assert await manager.cancel_request("r")
        with pytest.raises(RequestCancelled) as ended:
            await manager.wait_for_result("r", 10.0)
        assert ended.value.partial == (79, 75)
        status = await manager.get_request_status("r")
        assert (status.state, status.output) == ("cancelled", "OK")
        assert not await manager.cancel_request("r"), "it has ended"
        with pytest.raises(UnknownRequest, match="'nobody'"):
            await manager.cancel_request("nobody")


async def test_a_waiting_request_is_cancelled_too() -> None:
    async with held() as (manager, fleet):
        manager.register_instance(instance("w0", max_concurrency=1))
        await manager.submit_request(request("first"))
        await manager.submit_request(request("second"))
        assert await manager.cancel_request("second")
        with pytest.raises(RequestCancelled):
            await manager.wait_for_result("second", 10.0)
        assert list(fleet["w0"].nodes) == ["first"]


@pytest.mark.parametrize("placed", [True, False], ids=["running", "waiting"])
async def test_expired_is_failed(placed: bool) -> None:
    async with held() as (manager, fleet):
        manager.register_instance(instance("w0", max_concurrency=1))
        if not placed:
            await manager.submit_request(request("before"))
        await manager.submit_request(request("r", timeout_ms=20.0))
        with pytest.raises(DeadlineExpired, match="raise timeout_ms"):
            await manager.wait_for_result("r", 10.0)
        status = await manager.get_request_status("r")
        assert (status.state, status.output) == ("failed", None)
        assert "timeout passed" in str(status.error)
        assert fleet["w0"].cancels == (["r"] if placed else [])


async def test_given_up_is_failed() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r"))
        for _ in range(4):
            fleet["w0"].wait_for("r")
            fleet["w0"].break_on("r")
        with pytest.raises(EngineFailed, match="attempt 4 was the last allowed"):
            await manager.wait_for_result("r", 10.0)
        assert (await manager.get_request_status("r")).state == "failed"


async def test_refused_inside_is_failed_and_refused_at_the_door_raises() -> None:
    async with held("w0", max_in_flight=1) as (manager, fleet):
        await manager.submit_request(request("long", max_tokens=5000))
        with pytest.raises(InvalidRequest, match="lower max_tokens"):
            await manager.wait_for_result("long", 10.0)
        assert (await manager.get_request_status("long")).state == "failed"
        await manager.submit_request(request("r"))
        with pytest.raises(Overloaded, match="max_in_flight=1") as refused:
            await manager.submit_request(request("s"))
        assert refused.value.retry_after_s
        with pytest.raises(UnknownRequest):
            await manager.get_request_status("s")
        fleet["w0"].wait_for("r")


async def test_a_task_nobody_offers_is_failed() -> None:
    async with held("w0") as (manager, _):
        await manager.submit_request(request("r", task="embed", sampling_params=None))
        with pytest.raises(NoInstance, match="no instance does 'embed'"):
            await manager.wait_for_result("r", 10.0)


async def test_many_waiters_get_the_same_result() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r"))
        waiters = [asyncio.ensure_future(manager.wait_for_result("r", 10.0)) for _ in range(5)]
        await asyncio.sleep(0)
        waiters.pop().cancel()
        fleet["w0"].wait_for("r")
        fleet["w0"].end("r")
        results = await asyncio.gather(*waiters)
        assert all(result is results[0] for result in results)


# -- what is remembered -----------------------------------------------------------------------


async def test_a_configured_number_is_remembered() -> None:
    async with simulated(keep_finished=2) as manager:
        for name in ("a", "b", "c"):
            await manager.process_request("Hello", {"max_tokens": 1}, request_id=name)
        assert (await manager.get_request_status("b")).state == "completed"
        for ask in (manager.get_request_status("a"), manager.wait_for_result("a")):
            with pytest.raises(UnknownRequest, match="'a'"):
                await ask
        await manager.process_request("Hello", {"max_tokens": 1}, request_id="a")


async def test_nothing_is_remembered_beyond_its_age() -> None:
    async with simulated(keep_finished_s=0.0) as manager:
        await manager.process_request("Hello", {"max_tokens": 1}, request_id="a")
        with pytest.raises(UnknownRequest):
            await manager.get_request_status("a")


def test_the_memory_is_bounded_in_number_and_age() -> None:
    clock = ManualClock()
    memory = Finished(keep=3, keep_s=10.0, clock=clock)
    handles = [RequestHandle(made(request_id=f"r{n}"), ByteTokenizer()) for n in range(5)]
    for handle in handles[:4]:
        memory.add(handle)
        clock.advance(4.0)
    assert [memory.get(f"r{n}") for n in range(4)] == [None, None, *handles[2:4]]
    clock.advance(4.0)
    memory.add(handles[4])
    assert len(memory) == 2
    assert [memory.get(f"r{n}") for n in (2, 3, 4)] == [None, *handles[3:]]
