"""The samples that are programs, run as their reader would run them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops import (
    ControlPlaneManager,
    ControlPlaneVLLMService,
    ExecutionInstance,
    ParallelismType,
    RequestMetadata,
    RequestPriority,
)
from sage_llm_ops.testing import sim_fleet, sim_instances
from sage_llm_ops.testing.openai_server import OpenAIServer
from tests.seeds.rows import HERE, text
from tests.seeds.running import run, run_text


@pytest.fixture
def simulated() -> Iterator[None]:
    with sim_fleet():
        yield


@pytest.fixture
def manager(simulated: None) -> Iterator[ControlPlaneManager]:
    """A started manager with one instance, as the documents' prose supposes it."""
    manager = ControlPlaneManager()
    (instance,) = sim_instances(1, model="meta-llama/Llama-2-7b")
    manager.register_instance(instance)
    asyncio.run(manager.start())
    yield manager
    asyncio.run(manager.stop())


def test_000_1_construct_and_register() -> None:
    assert "vllm-1" in run("000-1")["manager"].executor.instances


def test_001_1_direct(simulated: None) -> None:
    scope = run("001-1", prompt="Hello", sampling_params={"max_tokens": 8, "temperature": 0.7})
    assert len(str(scope["outputs"])) == 8
    asyncio.run(scope["manager"].stop())


def test_001_2_pd() -> None:
    scope = run(
        "001-2", ControlPlaneManager=ControlPlaneManager, ExecutionInstance=ExecutionInstance
    )
    assert scope["prefilling_instance"].ranks == 4


def test_001_3_slo_aware() -> None:
    scope = run("001-3", ControlPlaneManager=ControlPlaneManager)
    assert scope["manager"].scheduling_policy.name == "slo_aware"


def test_001_4_parallelism_config() -> None:
    kinds = [ParallelismType.TP, ParallelismType.PP, ParallelismType.HYBRID]
    assert run("001-4")["config"].supported_strategies == kinds


def test_001_5_metrics(manager: ControlPlaneManager, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(manager.process_request("Hello"))
    run("001-5", manager=manager)
    throughput, latency, gpu, cache = capsys.readouterr().out.splitlines()
    assert float(throughput.split()[1]) > 0.0
    assert float(latency.split()[1]) > 0.0
    assert gpu.endswith("None%"), "nobody measures it on a simulated fleet"
    assert cache.endswith(" 0.0%")


@pytest.mark.vllm
def test_001_6_whole_program(simulated: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("001-6")
    assert "Output: " in capsys.readouterr().out


STEP_3 = "# 3. Scheduling Policy"
STEP_9 = "# 9. "


def _flow() -> tuple[str, str]:
    """Steps 1, 9 and 10 with one request; steps 3 to 6 want one of their own."""
    block = text("002-1")
    return block[: block.index(STEP_3)] + block[block.index(STEP_9) :], block[
        block.index(STEP_3) : block.index(STEP_9)
    ]


def test_002_1_flow_submit_and_ask(manager: ControlPlaneManager) -> None:
    scope = run_text(_flow()[0], "002-1", manager=manager)
    assert scope["request_id"] == "req-123"
    assert scope["metrics"].total_requests in (0, 1)
    assert scope["status"].state in ("pending", "queued", "running", "completed")
    assert len(asyncio.run(manager.wait_for_result("req-123")).token_ids) == 512


def test_002_1_flow_step_by_step(manager: ControlPlaneManager) -> None:
    request = RequestMetadata(
        request_id="req-124", prompt="Explain.", max_tokens=8, model_name="meta-llama/Llama-2-7b"
    )
    instances = manager.executor.get_healthy_instances()
    scope = run_text(
        _flow()[1],
        "002-1",
        manager=manager,
        request=request,
        available_instances=instances,
        phase=None,
    )
    assert scope["result"]["request_id"] == "req-124"


def test_002_2_program(simulated: None, capsys: pytest.CaptureFixture[str]) -> None:
    run("002-2")
    assert "Throughput: " in capsys.readouterr().out


def test_002_3_service_class(simulated: None, capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "002-3",
        asyncio=asyncio,
        ExecutionInstance=ExecutionInstance,
        RequestMetadata=RequestMetadata,
        RequestPriority=RequestPriority,
    )
    assert "Output: " in capsys.readouterr().out


def test_002_11_basic() -> None:
    """For real: it constructs and registers an HTTP instance, without a loop or a server."""
    manager: ControlPlaneManager = run("002-11")["manager"]
    assert manager.executor.instances["vllm-1"].wants_http
    asyncio.run(manager.stop())


def test_002_11_basic_serves_on_a_simulated_fleet(simulated: None) -> None:
    manager: ControlPlaneManager = run("002-11")["manager"]

    async def use() -> None:
        result = await manager.process_request("Hello", {"max_tokens": 5})
        assert (len(result.text), result.instance_id) == (5, "vllm-1")
        await manager.stop()

    asyncio.run(use())


def test_002_11_basic_serves_over_http() -> None:
    """The document's port is anybody's: the text gets one that is free."""
    with OpenAIServer("meta-llama/Llama-2-7b") as server:
        block = text("002-11").replace("8000", str(server.port))
        manager: ControlPlaneManager = run_text(block, "002-11")["manager"]

        async def use() -> None:
            result = await manager.process_request("xyz", {"max_tokens": 5})
            assert (result.text, result.instance_id) == ("abcde", "vllm-1")
            await manager.stop()

        asyncio.run(use())


def test_002_12_pd_configuration() -> None:
    assert len(run("002-12")["manager"].executor.instances) == 2


def test_002_13_production() -> None:
    names: dict[str, Any] = {
        "ControlPlaneManager": ControlPlaneManager,
        "ExecutionInstance": ExecutionInstance,
    }
    assert len(run("002-13", **names)["manager"].executor.instances) == 3


def test_003_toml_becomes_a_service(simulated: None) -> None:
    service = ControlPlaneVLLMService(HERE.parent / "config" / "003_services.toml")
    assert [instance.gpu_count for instance in service.config.instances] == [None, None]
    with service:
        assert service.generate("Hello", max_tokens=4)["finish_reason"] == "length"


def test_003_toml_serves_once_its_names_are_those_that_exist(
    simulated: None, tmp_path: Path
) -> None:
    """The rest of the file is obeyed: table, instances, their types and sizes."""
    path = tmp_path / "services.toml"
    early = text("003-toml").replace('"adaptive"', '"fifo"').replace("= true", "= false")
    path.write_text(early, "utf-8")
    with ControlPlaneVLLMService(path) as service:
        assert service.config.name == "llm_control_plane"
        answers = service.generate(["Hello", "Bye"], max_tokens=4)
        names = {answer["instance_id"] for answer in answers}
    assert names == {"llm-prefill-1", "llm-decode-1"}


def test_the_payload_of_003_1(simulated: None) -> None:
    """What the document's `process` reads is what ours reads; it calls it without awaiting."""
    payload = {"inputs": "Hello", "priority": "NORMAL", "slo_deadline_ms": 1000, "max_tokens": 4}
    (instance,) = sim_instances(1)
    with ControlPlaneVLLMService({"instances": [instance]}) as service:
        answer = service.process({"task": "generate", **payload})
    assert isinstance(answer, dict) and len(answer["text"]) == 4
