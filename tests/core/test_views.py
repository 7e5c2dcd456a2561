"""The read-only looks into what waits and what runs."""

from __future__ import annotations

import threading

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionCoordinator, PDSeparationConfig
from sage_llm_ops.testing import sim_instances
from sage_llm_ops.types.errors import ConfigError, UnknownName
from tests.core.fleets import held, instance, request, until


async def test_pending_in_the_order_of_the_policy_and_running_by_id() -> None:
    async with held(scheduling_policy="priority") as (manager, fleet):
        manager.register_instance(instance("w0", max_concurrency=1))
        await manager.submit_request(request("running"))
        fleet["w0"].wait_for("running")
        for name in ("low", "normal", "high"):
            await manager.submit_request(request(name, priority=name))
        await until(lambda: len(manager.pending_queue) == 3)
        queue, running = manager.pending_queue, manager.running_requests
        assert [each.id for each in queue] == ["high", "normal", "low"]
        assert (queue[0].id, [each.id for each in queue[1:]]) == ("high", ["normal", "low"])
        assert dict(running).keys() == {"running"}
        assert running["running"].state == "running"
        with pytest.raises(KeyError):
            running["high"]
        for name in ("running", "high", "normal", "low"):
            fleet["w0"].wait_for(name)
            fleet["w0"].end(name)
        await until(lambda: not manager.pending_queue and not manager.running_requests)


def test_a_view_may_be_read_while_the_graph_works() -> None:
    """The queue is changed by the graph's thread: a reader must not fail over that."""
    import asyncio

    manager = ControlPlaneManager()
    for each in sim_instances(2, max_concurrency=1, speed=2000.0):
        manager.register_instance(each)
    wrong: list[BaseException] = []
    done = threading.Event()

    def look() -> None:
        try:
            while not done.is_set():
                list(manager.pending_queue)
                dict(manager.running_requests)
                manager.get_metrics()
        except BaseException as error:
            wrong.append(error)

    async def load() -> None:
        handles = [await manager.submit(request(f"r{n}", max_tokens=2)) for n in range(150)]
        for handle in handles:
            await handle
        await manager.stop()

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        asyncio.run(load())
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not wrong, repr(wrong)


async def test_names_in_force() -> None:
    async with held(scheduling_policy="priority", routing_strategy="round_robin") as (manager, _):
        assert manager.scheduling_policy.name == "priority"
        assert manager.routing_strategy == "round_robin"
        assert manager.router.strategy == "round_robin"
        assert manager.pd_router is not None
        assert manager.enable_pd_separation is True
    manager = ControlPlaneManager(enable_pd_separation=False)
    assert manager.pd_router is None


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"scheduling_policy": "prioritty"}, UnknownName, "did you mean 'priority'"),
        ({"routing_strategy": "roundrobin"}, UnknownName, "did you mean 'round_robin'"),
        ({"scheduling_options": {"size": 1}}, UnknownName, "option of strategy 'adaptive' 'size'"),
        ({"routing_options": {"factor": 2.0}}, UnknownName, "option of routing strategy"),
        ({"admission": {"tenant_burst": 0}}, ConfigError, "tenant_burst=0 must be at least 1"),
        (
            {"pd_config": PDSeparationConfig(routing_policy="sometimes")},
            UnknownName,
            "unknown PD policy 'sometimes'",
        ),
        ({"enable_auto_scaling": True}, ConfigError, "not built yet"),
        ({"pd_config": PDSeparationConfig(enabled=False)}, ConfigError, "contradict each other"),
        ({"max_in_flight": 0}, ConfigError, "max_in_flight=0 must be at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_it_cannot_do_is_refused_when_it_is_made(
    wrong: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ControlPlaneManager(**wrong)  # type: ignore[arg-type]


async def test_a_coordinator_of_its_own() -> None:
    alone = ExecutionCoordinator()
    alone.register_instance(instance("w0", options={"speed": 1000.0}))
    done = await alone.execute_request(request("r", max_tokens=2), alone.instances["w0"])
    assert (done["instance_id"], len(done["text"])) == ("w0", 2)
    assert await alone.health_check("w0")
    await alone._manager.stop()
