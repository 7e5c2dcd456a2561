"""R5: starting, stopping, and event loops that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionInstance
from sage_llm_ops.testing import HeldFleet, sim_instances
from sage_llm_ops.types.errors import EngineStartError, NotRunning, PipelineDied, UnknownName
from tests.core.fleets import echo, held, instance, request, simulated


async def test_the_first_request_starts_it() -> None:
    async with simulated(2) as manager:
        assert not manager.control.running
        assert str(await manager.process_request("Hello", {"max_tokens": 3}))
        assert manager.control.running


async def test_start_is_idempotent_and_waits_until_workers_are_ready() -> None:
    async with simulated(3) as manager:
        await manager.start()
        assert {each.health_status for each in manager.executor.instances.values()} == {"healthy"}
        await manager.start()
        assert {manager.executor.worker(f"sim-{n}").incarnation for n in range(3)} == {1}


async def test_whoever_starts_it_while_it_starts_waits_for_the_same_end() -> None:
    """A request let in before the workers have said what they can could not be checked."""
    async with simulated(1) as manager:
        ids = await asyncio.gather(*(manager.submit_request(request(f"r{n}")) for n in range(20)))
        assert len(set(ids)) == 20
        await asyncio.gather(*(manager.wait_for_result(each) for each in ids))
        assert manager.get_metrics().completed_requests == 20


@pytest.mark.parametrize(("kind", "warned"), [("GENERAL", False), ("PREFILLING", True)])
async def test_half_a_split_pool_is_warned_of_and_none_at_all_is_not(
    kind: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with ControlPlaneManager(default_engine="sim") as manager:
        manager.register_instance(ExecutionInstance("a", instance_type=kind))
        await manager.process_request("Hello", {"max_tokens": 2})
    said = [each for each in caplog.records if "no_split_pool" in each.message]
    assert [each.levelname for each in said if each.levelno >= 30] == ["WARNING"] * warned


def test_a_later_event_loop() -> None:
    manager = ControlPlaneManager()
    for each in sim_instances(1, speed=1000.0):
        manager.register_instance(each)
    identity = asyncio.run(manager.submit_request(request()))
    assert asyncio.run(manager.wait_for_result(identity)).request_id == "r"
    assert asyncio.run(manager.process_request("again", {"max_tokens": 2})).text
    asyncio.run(manager.stop())


def test_a_loop_that_was_closed_under_a_reader_harms_nobody() -> None:
    fleet = HeldFleet()
    manager = ControlPlaneManager(make=fleet)
    manager.register_instance(instance())
    asyncio.run(manager.submit_request(request("r")))
    abandoned = asyncio.new_event_loop()
    reader = _reader(manager, "r")
    abandoned.run_until_complete(anext(reader))
    abandoned.close()
    fleet["w0"].wait_for("r")
    fleet["w0"].say("r", [65])
    fleet["w0"].end("r")
    assert asyncio.run(manager.wait_for_result("r", 10.0)).text == "A"
    asyncio.run(manager.stop(5.0))
    assert manager.get_metrics().completed_requests == 1


async def _reader(manager: ControlPlaneManager, identity: str) -> AsyncIterator[None]:
    """Waits for tokens once it was asked for the second time; by then its loop is closed."""
    loop = asyncio.get_running_loop()
    manager.control.handle(identity).subscribe(lambda: loop.call_soon_threadsafe(print))
    yield


async def test_stop_is_idempotent_lets_running_requests_end_and_takes_no_more() -> None:
    async with simulated(1) as manager:
        await manager.submit_request(request("r", max_tokens=400))
        await manager.stop()
        assert (await manager.wait_for_result("r")).usage.completion_tokens == 400
        await manager.stop()
        for again in (manager.start(), manager.submit_request(request("later"))):
            with pytest.raises(NotRunning, match="cannot be started again; make a new one"):
                await again


async def test_stop_fails_by_name_what_does_not_end() -> None:
    async with held("w0") as (manager, fleet):
        await manager.submit_request(request("r"))
        fleet["w0"].wait_for("r")
        fleet["w0"].deaf = True
        await manager.stop(0.05)
        with pytest.raises(PipelineDied, match=r"'r'.*stopped.*0\.05 s"):
            await manager.wait_for_result("r")
        assert fleet["w0"].stopped


async def test_as_a_context() -> None:
    manager = ControlPlaneManager()
    manager.register_instance(instance(options={"speed": 1000.0}))
    async with manager:
        assert manager.control.running
    assert not manager.control.running


async def test_a_manager_that_never_started_stops() -> None:
    manager = ControlPlaneManager()
    await manager.stop()
    with pytest.raises(NotRunning):
        await manager.start()


async def test_a_worker_that_does_not_come_up_ends_the_start_with_its_log(tmp_path: Path) -> None:
    manager = ControlPlaneManager(log_dir=tmp_path)
    broken = echo(start_error="no such device: 7")
    manager.register_instance(broken)
    with pytest.raises(EngineStartError, match=r"instance 'w0'.*(?s:.)*no such device: 7") as first:
        await manager.start()
    assert "no such device: 7" in (tmp_path / "w0.log").read_text()
    with pytest.raises(EngineStartError) as second:
        await manager.start()
    assert str(second.value) == str(first.value)
    assert not manager.control.running


async def test_an_unknown_engine_is_refused_and_may_be_mended() -> None:
    manager = ControlPlaneManager()
    wrong = ExecutionInstance("w0", model_name="m", engine="vlm")
    manager.register_instance(wrong)
    with pytest.raises(UnknownName, match=r"'vlm'.*'vllm'"):
        await manager.start()
    await manager.unregister_instance("w0")
    manager.register_instance(instance(options={"speed": 1000.0}))
    assert (await manager.process_request("Hello", {"max_tokens": 1})).instance_id == "w0"
    await manager.stop()
