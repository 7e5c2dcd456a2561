"""Another worker under the same id, while the others serve and nobody is refused."""

from __future__ import annotations

import asyncio

import pytest

from sage_llm_ops import ControlPlaneManager
from sage_llm_ops.core import describe
from sage_llm_ops.types.errors import (
    ConfigError,
    EngineStartError,
    NoInstance,
    NotRunning,
    UnknownName,
)
from sage_llm_ops.types.instances import ExecutionInstance
from tests.core.fleets import SLOW, echo, held, holder, instance, request, simulated, until


async def test_what_runs_there_ends_first_and_what_waits_goes_to_the_new_one() -> None:
    async with held("w0", "w1") as (manager, fleet):
        old = fleet["w0"]
        await manager.submit_request(request("running", pin="w0"))
        old.wait_for("running")
        changing = asyncio.ensure_future(
            manager.replace_instance(instance("w0", max_concurrency=3))
        )
        await until(lambda: "draining" in [row["state"] for row in rows(manager)])
        await manager.submit_request(request("waiting", pin="w0"))
        await manager.submit_request(request("other"))
        fleet["w1"].wait_for("other")
        assert not changing.done()
        old.end("running")
        await asyncio.wait_for(changing, 10.0)
        assert fleet["w0"] is not old and old.stopped
        fleet["w0"].wait_for("waiting")
        fleet["w0"].end("waiting")
        for name in ("running", "waiting"):
            assert (await manager.wait_for_result(name, 10.0)).attempts == 1
        assert manager.executor.instances["w0"].max_concurrency == 3
        assert [row["slots"] for row in rows(manager)] == [3, 9]


async def test_the_only_worker_of_a_model_is_replaced_and_nobody_is_refused() -> None:
    async with held("w0") as (manager, fleet):
        old = fleet["w0"]
        await manager.submit_request(request("first"))
        old.wait_for("first")
        changing = asyncio.ensure_future(manager.replace_instance(instance("w0")))
        await until(lambda: "draining" in [row["state"] for row in rows(manager)])
        ids = [await manager.submit_request(request(f"r{n}")) for n in range(4)]
        old.end("first")
        await asyncio.wait_for(changing, 10.0)
        for each in ids:
            fleet["w0"].wait_for(each)
            fleet["w0"].end(each)
            await manager.wait_for_result(each, 10.0)


async def test_what_does_not_end_in_time_goes_to_others() -> None:
    async with held("w0", "w1") as (manager, fleet):
        await manager.submit_request(request("r", max_tokens=2))
        first, other = await holder(fleet, "r")
        fleet[first].say("r", [65])
        await manager.replace_instance(instance(first), timeout_s=0.05)
        fleet[other].wait_for("r")
        fleet[other].say("r", [66])
        fleet[other].end("r")
        assert (await manager.wait_for_result("r", 10.0)).text == "AB"


async def test_what_cannot_be_built_is_refused_before_anything_is_touched() -> None:
    async with simulated(1) as manager:
        await manager.start()
        before = manager.executor.worker("sim-0")
        with pytest.raises(UnknownName, match="kv_blcks"):
            await manager.replace_instance(instance("sim-0", options={"kv_blcks": 1}))
        with pytest.raises(UnknownName, match="'w9'"):
            await manager.replace_instance(instance("w9"))
        assert manager.executor.worker("sim-0") is before
        assert (await manager.process_request("Hello", {"max_tokens": 1})).text


async def test_one_that_does_not_come_up_says_so_and_is_started_again() -> None:
    async with held("w0", restart=SLOW) as (manager, fleet):
        fleet.options["w0"] = {"starts": ["no such device"]}
        with pytest.raises(EngineStartError, match="'w0', replaced, is not up: no such device"):
            await manager.replace_instance(instance("w0"))
        (row,) = describe(manager.control)
        assert (row["failures"], row["last_end"]) == (1, "no such device")
        assert row["next_start_s"] > 0
        await manager.submit_request(request("waits"))
        assert (await manager.get_request_status("waits")).state == "queued"
        fleet["w0"].start()
        fleet["w0"].wait_for("waits")


async def test_another_model_under_the_same_id_strands_who_waits_for_the_old_one() -> None:
    async with held("w0") as (manager, fleet):
        old = fleet["w0"]
        await manager.submit_request(request("running"))
        old.wait_for("running")
        changing = asyncio.ensure_future(manager.replace_instance(instance("w0", model="new")))
        await until(lambda: "draining" in [row["state"] for row in rows(manager)])
        await manager.submit_request(request("waits"))
        await until(lambda: len(manager.pending_queue) == 1)
        old.end("running")
        await asyncio.wait_for(changing, 10.0)
        with pytest.raises(NoInstance, match="no instance is left"):
            await manager.wait_for_result("waits", 10.0)
        await manager.submit_request(request("r", model_name="new"))
        fleet["w0"].wait_for("r")


async def test_one_change_at_a_time() -> None:
    async with held("w0") as (manager, fleet):
        old = fleet["w0"]
        await manager.submit_request(request("r"))
        old.wait_for("r")
        changing = asyncio.ensure_future(manager.roll_instances())
        await until(lambda: "draining" in [row["state"] for row in rows(manager)])
        for act in (
            manager.replace_instance(instance("w0")),
            manager.unregister_instance("w0"),
            manager.roll_instances(),
        ):
            with pytest.raises(ConfigError, match="wait for its end"):
                await act
        old.end("r")
        assert await asyncio.wait_for(changing, 10.0) == ["w0"]


async def test_before_start_it_is_only_another_definition() -> None:
    manager = ControlPlaneManager()
    manager.register_instance(instance("w0", options={"kv_blcks": 1}))
    await manager.replace_instance(instance("w0", options={"speed": 1000.0}))
    assert (await manager.process_request("Hello", {"max_tokens": 1})).instance_id == "w0"
    await manager.stop()


async def test_a_roll_stops_at_the_first_that_does_not_come_up() -> None:
    async with held("w0", "w1", "w2", restart=SLOW) as (manager, fleet):
        last = fleet["w2"]
        fleet.options["w1"] = {"starts": ["no such device"]}
        with pytest.raises(EngineStartError) as stopped:
            await manager.roll_instances()
        said = str(stopped.value).partition("\n")[0]
        assert "stopped at 'w1'; replaced before: ['w0']; left as they were: ['w2']" in said
        assert fleet["w2"] is last and last.alive


def simulated_fleet() -> list[ExecutionInstance]:
    return [instance(f"w{n}", options={"speed": 5.0}) for n in range(3)]


def process_fleet() -> list[ExecutionInstance]:
    return [echo(f"w{n}", step_s=0.002) for n in range(2)]


@pytest.mark.parametrize("fleet", [simulated_fleet, process_fleet], ids=["inline", "process"])
async def test_all_are_replaced_under_load_and_no_request_fails(fleet: object) -> None:
    async with simulated(0) as manager:
        for each in fleet():  # type: ignore[operator]
            manager.register_instance(each)
        await manager.start()
        rolling = asyncio.ensure_future(manager.roll_instances())
        served: list[int] = []

        async def client(number: int) -> None:
            while not rolling.done() or not served:
                # Sampled: it could not go on elsewhere, so a drain must really wait for it.
                sampling = {"max_tokens": 20, "temperature": 1.0}
                pin = f"w{number % 2}" if number % 4 == 0 else None
                result = await manager.process_request("Hello", sampling, pin=pin)
                served.append(result.attempts)

        await asyncio.gather(*(client(number) for number in range(12)))
        assert await rolling == list(manager.executor.instances)
        assert set(served) == {1}
        metrics = manager.get_metrics()
        assert (metrics.failed_requests, metrics.completed_requests) == (0, len(served))
        incarnations = [manager.executor.worker(w).incarnation for w in manager.executor.instances]
        assert set(incarnations) == {2}, "each is the second of its id, none was restarted"


def rows(manager: ControlPlaneManager) -> list[dict[str, object]]:
    return manager.control.pipeline.plane.fleet.describe()


async def test_a_stop_does_not_wait_for_a_replacement() -> None:
    async with held("w0") as (manager, fleet):
        fleet["w0"].deaf = True
        await manager.submit_request(request("r"))
        fleet["w0"].wait_for("r")
        changing = asyncio.ensure_future(manager.replace_instance(instance("w0")))
        await until(lambda: "draining" in [row["state"] for row in rows(manager)])
        await manager.stop(0.05)
        with pytest.raises(NotRunning, match="stopped while instance 'w0' was replaced"):
            await asyncio.wait_for(changing, 10.0)
