"""R13: one request on one instance, step by step."""

from __future__ import annotations

import asyncio

import pytest

from sage_llm_ops import RequestMetadata, SchedulingDecision
from sage_llm_ops.types.errors import DuplicateRequest, InvalidRequest, UnknownName
from tests.core.fleets import held, instance, request, simulated, until


def decision(request_id: str = "r", instance_id: str = "sim-1") -> SchedulingDecision:
    return SchedulingDecision(instance_id, request_id, 1.0, None)


async def test_it_runs_there_and_nowhere_else() -> None:
    async with simulated(3) as manager:
        there = manager.executor.instances["sim-1"]
        for number in range(6):
            asked = request(f"r{number}", max_tokens=4)
            done = await manager.executor.execute_request(asked, there, decision(f"r{number}"))
            assert (done["request_id"], done["instance_id"]) == (f"r{number}", "sim-1")
            assert asked.pin is None, "the caller's own request stays as it was"
        assert set(done) == {
            "request_id",
            "instance_id",
            "text",
            "finish_reason",
            "usage",
            "timings",
        }
        assert (len(done["text"]), done["finish_reason"]) == (4, "length")
        assert done["usage"]["total_tokens"] == 9
        assert done["timings"]["latency_s"] >= done["timings"]["ttft_s"] > 0.0
        rows = manager.get_metrics().workers
        assert (rows["sim-1"]["completed"], len(rows)) == (6, 2)


async def test_it_reserves_while_it_runs_and_releases_after() -> None:
    async with held("w0", "w1") as (manager, fleet):
        there = manager.executor.instances["w1"]
        view = manager.control.pipeline.plane.fleet
        running = asyncio.ensure_future(manager.executor.execute_request(request("r"), there))
        await until(lambda: "r" in fleet["w1"].nodes)
        assert view.running[view.rows[fleet["w1"].id]] == 1
        fleet["w1"].end("r")
        await running
        await until(lambda: view.running.sum() == 0)


async def test_an_accepted_id_is_not_run_twice() -> None:
    async with simulated(2) as manager:
        await manager.submit_request(request("r"))
        with pytest.raises(DuplicateRequest, match="'r'"):
            await manager.executor.execute_request(
                request("r"), manager.executor.instances["sim-1"], decision()
            )
        await manager.wait_for_result("r")
        assert manager.get_metrics().completed_requests == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (decision("another"), "the decision is about 'another'"),
        (decision(instance_id="sim-0"), "names instance 'sim-0', not 'sim-1'"),
    ],
    ids=["request", "instance"],
)
async def test_a_decision_about_something_else_is_refused(
    wrong: SchedulingDecision, said: str
) -> None:
    async with simulated(2) as manager:
        there = manager.executor.instances["sim-1"]
        with pytest.raises(InvalidRequest, match=said):
            await manager.executor.execute_request(request("r"), there, wrong)
        assert manager.get_metrics().total_requests == 0


async def test_a_decision_needs_a_request_that_has_an_id() -> None:
    async with simulated(2) as manager:
        there = manager.executor.instances["sim-1"]
        with pytest.raises(InvalidRequest, match="the decision is about 'r'"):
            await manager.executor.execute_request(RequestMetadata(prompt="x"), there, decision())


async def test_an_instance_nobody_registered() -> None:
    async with simulated(1) as manager:
        with pytest.raises(UnknownName, match="'w7'"):
            await manager.executor.execute_request(request("r"), instance("w7"))
        with pytest.raises(UnknownName, match="'w7'"):
            await manager.submit_request(request("r", pin="w7"))
