"""R2, R4, R6, R7: what registering does, and what it refuses."""

from __future__ import annotations

import inspect

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionInstance, ExecutionInstanceType
from sage_llm_ops.types.errors import (
    CapabilityError,
    ConfigError,
    InvalidRequest,
    NoInstance,
    UnknownName,
)
from tests.core.fleets import SLOW, held, instance, request, simulated


def test_constructor_and_register_need_no_event_loop() -> None:
    assert not inspect.iscoroutinefunction(ControlPlaneManager.register_instance)
    manager = ControlPlaneManager()
    manager.register_instance(instance(host="192.168.1.100", port=8000))
    assert list(manager.executor.instances) == ["w0"]
    assert manager.executor.instances["w0"].health_status == "unknown"


def test_an_id_is_given_once_through_either_door() -> None:
    manager = ControlPlaneManager()
    manager.executor.register_instance(instance())
    with pytest.raises(ConfigError, match="'w0' is registered already; choose another"):
        manager.register_instance(instance())


async def test_register_after_start() -> None:
    async with simulated(1) as manager:
        await manager.start()
        late = instance("late", model="other", options={"speed": 1000.0})
        manager.register_instance(late)
        result = await manager.process_request("Hello", {"max_tokens": 2}, model_name="other")
        assert (result.instance_id, late.health_status) == ("late", "healthy")


async def test_a_refused_instance_leaves_nothing_behind() -> None:
    async with simulated(1) as manager:
        await manager.start()
        with pytest.raises(UnknownName, match=r"kv_blcks.*did you mean 'kv_blocks'"):
            manager.register_instance(instance("late", options={"kv_blcks": 1}))
        assert "late" not in manager.executor.instances
        manager.register_instance(instance("late"))


async def test_ray_is_refused_by_name_until_it_is_built() -> None:
    manager = ControlPlaneManager()
    manager.register_instance(instance(placement="ray"))
    with pytest.raises(CapabilityError, match="'w0': placement 'ray' is not built yet"):
        await manager.start()
    await manager.stop()


async def test_the_only_model_needs_no_name_and_several_are_listed() -> None:
    async with simulated(1) as manager:
        assert (await manager.process_request("Hello", {"max_tokens": 1})).text
        manager.register_instance(instance("other", model="other"))
        with pytest.raises(InvalidRequest, match=r"\['sim-model', 'other'\]"):
            await manager.submit_request(request())
        with pytest.raises(NoInstance, match=r"'nobody'.*\['sim-model', 'other'\]"):
            await manager.submit_request(request(model_name="nobody"))


async def test_no_instance_at_all() -> None:
    async with simulated(0) as manager:
        with pytest.raises(NoInstance, match="register one first"):
            await manager.submit_request(request())


async def test_an_instance_without_model_is_refused_at_start_unless_the_engine_has_a_default() -> (
    None
):
    real = ControlPlaneManager()
    real.register_instance(ExecutionInstance("w0", engine="vllm"))
    with pytest.raises(ConfigError, match="'w0' names no model_name"):
        await real.start()
    await real.stop()
    nameless = ExecutionInstance("w0", engine="sim", options={"speed": 1000.0})
    sim = ControlPlaneManager()
    sim.register_instance(nameless)
    assert (await sim.process_request("Hello", model_name="sim")).instance_id == "w0"
    await sim.stop()


def test_gpu_count_is_what_the_parallelism_needs() -> None:
    wide = ExecutionInstance("w", tensor_parallel_size=4, data_parallel_size=2)
    assert (wide.gpu_count, wide.ranks) == (None, 8)
    with pytest.raises(ConfigError, match="gpu_count=4 is below the 8 ranks"):
        ExecutionInstance("w", tensor_parallel_size=4, data_parallel_size=2, gpu_count=4)


@pytest.mark.parametrize(
    "given", ["prefilling", "PREFILLING", "Prefilling", ExecutionInstanceType.PREFILLING]
)
def test_instance_type_by_name_in_any_case(given: ExecutionInstanceType | str) -> None:
    found = ExecutionInstance("w", instance_type=given).instance_type
    assert found is ExecutionInstanceType.PREFILLING


def test_an_unknown_instance_type_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"'prefiling'.*'prefilling'"):
        ExecutionInstance("w", instance_type="prefiling")


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"'tensor_paralel_size'.*'tensor_parallel_size'"):
        ExecutionInstance(**{"instance_id": "w", "tensor_paralel_size": 2})  # type: ignore[arg-type]


async def test_healthy_are_all_but_those_known_to_be_unhealthy() -> None:
    async with held("w0", "w1", restart=SLOW) as (manager, fleet):
        manager.register_instance(ExecutionInstance("w2", model_name="x", engine="sim"))
        assert await manager.executor.health_check("w0")
        fleet["w0"].kill()
        healthy = [each.instance_id for each in manager.executor.get_healthy_instances()]
        assert healthy == ["w1", "w2"]
        assert not await manager.executor.health_check("w0")
        fleet["w0"].start()
        assert await manager.executor.health_check("w0")
        with pytest.raises(UnknownName, match="'w9'"):
            await manager.executor.health_check("w9")
    assert not await manager.executor.health_check("w1"), "nobody takes requests any more"
