"""Taking an instance out, with and without waiting for what runs there."""

from __future__ import annotations

import asyncio

import pytest

from sage_llm_ops.types.errors import ConfigError, NoInstance, UnknownName, WorkerLost
from tests.core.fleets import SLOW, held, holder, instance, request


async def test_with_drain_what_runs_completes_there_and_nothing_new_comes() -> None:
    async with held("w0", "w1") as (manager, fleet):
        await manager.submit_request(request("r", pin="w0"))
        fleet["w0"].wait_for("r")
        leaving = asyncio.ensure_future(manager.unregister_instance("w0"))
        while "w0" in manager.executor.instances:
            await asyncio.sleep(0)
        for number in range(4):
            await manager.submit_request(request(f"s{number}"))
            fleet["w1"].wait_for(f"s{number}")
        assert not leaving.done()
        fleet["w0"].say("r", [65])
        fleet["w0"].end("r")
        await asyncio.wait_for(leaving, 10.0)
        result = await manager.wait_for_result("r", 10.0)
        assert (result.instance_id, result.attempts, result.text) == ("w0", 1, "A")
        assert fleet["w0"].stopped


async def test_its_id_is_free_once_it_is_gone() -> None:
    async with held("w0", "w1") as (manager, fleet):
        await manager.submit_request(request("r", pin="w0"))
        fleet["w0"].wait_for("r")
        leaving = asyncio.ensure_future(manager.unregister_instance("w0"))
        while "w0" in manager.executor.instances:
            await asyncio.sleep(0)
        with pytest.raises(ConfigError, match="'w0' is being taken out; wait for its end"):
            manager.register_instance(instance("w0"))
        assert list(manager.executor.instances) == ["w1"]
        fleet["w0"].end("r")
        await asyncio.wait_for(leaving, 10.0)
        manager.register_instance(instance("w0"))
        await manager.submit_request(request("s", pin="w0"))
        fleet["w0"].wait_for("s")


async def test_a_death_that_is_heard_late_is_not_that_of_the_next_one() -> None:
    async with held("w0") as (manager, fleet):
        old = fleet["w0"]
        await manager.replace_instance(instance("w0"))
        await manager.submit_request(request("r"))
        fleet["w0"].wait_for("r")
        manager.control.pipeline.hands.on_down(old.id, 1, "it died just before it was replaced")
        fleet["w0"].end("r")
        assert (await manager.wait_for_result("r", 10.0)).attempts == 1
        assert manager.control.supervisor.workers[old.id].up


async def test_without_drain_what_runs_goes_on_elsewhere() -> None:
    async with held("w0", "w1") as (manager, fleet):
        await manager.submit_request(request("r", max_tokens=3))
        first, other = await holder(fleet, "r")
        fleet[first].say("r", [65])
        await manager.unregister_instance(first, drain=False)
        node = fleet[other].wait_for("r")
        assert (node.offset, node.n_tokens, node.sampling.max_tokens) == (1, 6, 2)
        fleet[other].say("r", [66, 67])
        fleet[other].end("r")
        result = await manager.wait_for_result("r", 10.0)
        assert (result.text, result.instance_id, result.attempts) == ("ABC", other, 2)


async def test_a_drain_that_lasts_too_long_fails_over() -> None:
    async with held("w0", "w1") as (manager, fleet):
        await manager.submit_request(request("r"))
        first, other = await holder(fleet, "r")
        await manager.unregister_instance(first, timeout_s=0.02)
        fleet[other].wait_for("r")


async def test_the_last_of_its_model_leaves_nobody_waiting() -> None:
    async with held() as (manager, fleet):
        manager.register_instance(instance("w0", max_concurrency=1))
        await manager.submit_request(request("running"))
        fleet["w0"].wait_for("running")
        await manager.submit_request(request("waiting"))
        await manager.unregister_instance("w0", drain=False)
        for name in ("running", "waiting"):
            with pytest.raises(NoInstance, match="no instance"):
                await manager.wait_for_result(name, 10.0)
        with pytest.raises(NoInstance, match="register one first"):
            await manager.submit_request(request("late"))


async def test_sampled_tokens_cannot_go_on_elsewhere() -> None:
    async with held("w0", "w1") as (manager, fleet):
        await manager.submit_request(request("r", pin="w0", sampling_params={"temperature": 0.7}))
        fleet["w0"].wait_for("r")
        fleet["w0"].say("r", [65])
        await manager.unregister_instance("w0", drain=False)
        with pytest.raises(WorkerLost, match="1 tokens were delivered") as lost:
            await manager.wait_for_result("r", 10.0)
        assert lost.value.partial == (65,)


async def test_its_id_is_free_again_and_an_unknown_one_is_named() -> None:
    async with held("w0") as (manager, fleet):
        with pytest.raises(UnknownName, match="'w9'"):
            await manager.unregister_instance("w9")
        old = manager.executor.instances["w0"]
        await manager.unregister_instance("w0")
        assert old.health_status == "unknown"
        manager.register_instance(instance("w0"))
        await manager.submit_request(request("r"))
        fleet["w0"].wait_for("r")


async def test_a_worker_that_waits_for_its_restart_is_not_started_again() -> None:
    async with held("w0", "w1", restart=SLOW) as (manager, fleet):
        gone = fleet["w0"]
        gone.kill()
        await manager.unregister_instance("w0")
        assert gone.incarnation == 1
        assert gone.stopped
        await manager.submit_request(request("r"))
        fleet["w1"].wait_for("r")


async def test_before_start_it_is_only_forgotten() -> None:
    from sage_llm_ops import ControlPlaneManager

    manager = ControlPlaneManager()
    manager.register_instance(instance("w0"))
    await manager.unregister_instance("w0")
    assert not manager.executor.instances
    await manager.stop()
