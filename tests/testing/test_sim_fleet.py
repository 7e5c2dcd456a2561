"""R3: any program's fleet on the simulated engine."""

from __future__ import annotations

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionInstance, ExecutionInstanceType
from sage_llm_ops.core.stand_in import runs_as
from sage_llm_ops.testing import sim_fleet
from sage_llm_ops.types.errors import ConfigError, UnknownName


async def test_host_engine_and_model_are_labels_inside() -> None:
    far = ExecutionInstance(
        "far",
        host="192.168.1.100",
        port=8000,
        model_name="meta-llama/Llama-2-70b",
        instance_type="prefilling",
        tensor_parallel_size=4,
        gpu_count=4,
    )
    gpu = ExecutionInstance(
        "gpu", model_name="llama-3", engine="vllm", options={"gpu_memory_utilization": 0.9}
    )
    with sim_fleet():
        manager = ControlPlaneManager()
        manager.register_instance(far)
        manager.register_instance(gpu)
    for each in (far, gpu):
        result = await manager.process_request(
            "Hello", {"max_tokens": 4}, model_name=each.model_name
        )
        assert (result.instance_id, len(result.text)) == (each.instance_id, 4)
        assert manager.executor.worker(each.instance_id).describe()["placement"] == "inline"
    await manager.stop()
    registered = manager.executor.instances["far"]
    assert registered is far, "what was registered is what is shown"
    assert (registered.host, registered.instance_type) == (
        "192.168.1.100",
        ExecutionInstanceType.PREFILLING,
    )
    assert gpu.options == {"gpu_memory_utilization": 0.9}


async def test_only_inside() -> None:
    manager = ControlPlaneManager()
    with sim_fleet():
        manager.register_instance(ExecutionInstance("in", port=8000, model_name="m"))
    manager.register_instance(ExecutionInstance("out", port=8000, model_name="m"))
    with pytest.raises(ConfigError, match=r"'out': another instance serves model 'm' .* as text"):
        await manager.start()
    await manager.stop()


async def test_an_instance_without_a_model() -> None:
    with sim_fleet():
        manager = ControlPlaneManager()
        nameless = ExecutionInstance("w0")
        manager.register_instance(nameless)
    assert (await manager.process_request("Hello", {"max_tokens": 1})).text
    assert nameless.model_name == "sim"
    await manager.stop()


def test_options_are_the_engines_own_and_nest() -> None:
    with pytest.raises(UnknownName, match="'sped'"), sim_fleet(sped=2.0):
        pass
    ours = ExecutionInstance("w0", engine="sim", options={"kv_blocks": 7})
    with sim_fleet(block_size=16):
        assert runs_as(ours).options == {"speed": 1000.0, "block_size": 16, "kv_blocks": 7}
        with sim_fleet(speed=1.0):
            assert runs_as(ours).options == {"speed": 1.0, "kv_blocks": 7}
    assert runs_as(ours) is ours
