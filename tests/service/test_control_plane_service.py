"""The service as an object: what it is made of, what it answers, how it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops import ControlPlaneVLLMService, ExecutionInstance, RequestPriority
from sage_llm_ops.testing import HeldFleet
from sage_llm_ops.types.errors import (
    ConfigError,
    InvalidRequest,
    NoInstance,
    NotRunning,
    UnknownName,
)

FAST = {"speed": 1000.0}


def sim(n: int = 2, **options: Any) -> dict[str, Any]:
    rows = [
        {"instance_id": f"w{i}", "engine": "sim", "model_name": "m", "options": {**FAST, **options}}
        for i in range(n)
    ]
    return {"scheduling_policy": "fifo", "instances": rows}


@pytest.fixture
def llm() -> Iterator[ControlPlaneVLLMService]:
    with ControlPlaneVLLMService(sim()) as service:
        yield service


@pytest.fixture
def held() -> Iterator[tuple[ControlPlaneVLLMService, HeldFleet]]:
    fleet = HeldFleet()
    with ControlPlaneVLLMService(sim(1), make=fleet) as service:
        yield service, fleet


# -- answers -----------------------------------------------------------------------------------


def test_generate(llm: ControlPlaneVLLMService) -> None:
    answer = llm.process({"task": "generate", "inputs": "Hello", "max_tokens": 6})
    assert isinstance(answer, dict)
    assert set(answer) == {
        "request_id",
        "instance_id",
        "text",
        "token_ids",
        "finish_reason",
        "usage",
        "timings",
    }
    assert len(answer["text"]) == len(answer["token_ids"]) == 6
    assert answer["finish_reason"] == "length"
    assert answer["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "total_tokens": 11,
        "cached_tokens": 0,
    }
    assert answer["timings"]["latency_s"] >= answer["timings"]["ttft_s"] >= 0.0


def test_several_inputs_are_answered_in_their_order(llm: ControlPlaneVLLMService) -> None:
    texts = ["one", "three", "seventeen"]
    answers = llm.generate(texts, max_tokens=3, request_id="batch")
    assert [answer["usage"]["prompt_tokens"] for answer in answers] == [3, 5, 9]
    assert [answer["request_id"] for answer in answers] == ["batch-0", "batch-1", "batch-2"]


def test_several_inputs_run_at_the_same_time(
    held: tuple[ControlPlaneVLLMService, HeldFleet],
) -> None:
    service, fleet = held
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(service.generate, ["a", "b", "c"], request_id="r", max_tokens=4)
        service.warm_up()
        for identity in ("r-0", "r-1", "r-2"):
            fleet["w0"].wait_for(identity)
        for identity in ("r-2", "r-0", "r-1"):
            fleet["w0"].say(identity, [65, 66])
            fleet["w0"].end(identity)
        assert [answer["text"] for answer in answers.result(10)] == ["AB", "AB", "AB"]


def test_more_inputs_than_places_wait_for_theirs() -> None:
    config = {"max_in_flight": 2, "instances": [{"instance_id": "w0", "engine": "sim"}]}
    with ControlPlaneVLLMService(config) as service:
        answers = service.generate([f"input {n}" for n in range(9)], max_tokens=2)
        assert [len(answer["token_ids"]) for answer in answers] == [2] * 9
        again = asyncio.run(
            service.aprocess({"inputs": [f"input {n}" for n in range(9)], "max_tokens": 2})
        )
        assert all("error" not in answer for answer in again)


async def test_what_is_cancelled_while_it_waits_for_places_submits_no_more() -> None:
    fleet = HeldFleet()
    instances = [{"instance_id": "w0", "model_name": "m", "engine": "sim"}]
    config = {"max_in_flight": 2, "instances": instances}
    with ControlPlaneVLLMService(config, make=fleet) as service:
        await asyncio.to_thread(service.warm_up)
        payload = {"inputs": ["a", "b", "c"], "request_id": "r"}
        asking = asyncio.ensure_future(service.aprocess(payload))
        for name in ("r-0", "r-1"):
            await asyncio.to_thread(lambda name=name: fleet["w0"].wait_for(name))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asyncio.to_thread(service.manager.control.pipeline.wait_idle, 10.0)
        assert {node.request for node in fleet["w0"].taken} <= {"r-0", "r-1", "r-2"}
        assert not fleet["w0"].held


def test_token_ids_one_and_several(llm: ControlPlaneVLLMService) -> None:
    assert llm.generate([72, 105], max_tokens=2)["usage"]["prompt_tokens"] == 2
    several = llm.generate([[72, 105], [72]], max_tokens=2)
    assert [answer["usage"]["prompt_tokens"] for answer in several] == [2, 1]


def test_chat(llm: ControlPlaneVLLMService) -> None:
    turns = [{"role": "user", "content": "Hi"}]
    as_messages = llm.chat(turns, max_tokens=2)
    as_text = llm.chat("Hi", max_tokens=2)
    assert as_messages["usage"] == {**as_text["usage"], "cached_tokens": 0}
    assert len(llm.chat([turns, turns, "Hi"], max_tokens=2)) == 3


def test_embed() -> None:
    config = sim(1, tasks=["embed", "generate"], embedding_dim=8)
    with ControlPlaneVLLMService(config) as llm:
        one, other = llm.embed(["Hello", "Bye"])
        assert len(one["embedding"]) == 8 != one["embedding"] != other["embedding"]
        assert "text" not in one
        assert llm.embed("Hello")["embedding"] == one["embedding"]


def test_one_failure_leaves_the_others(held: tuple[ControlPlaneVLLMService, HeldFleet]) -> None:
    service, fleet = held
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(service.generate, ["a", "", "c"], request_id="r", max_tokens=4)
        service.warm_up()
        fleet["w0"].wait_for("r-0")
        fleet["w0"].say("r-0", [65])
        service.manager.control.cancel("r-0")
        fleet["w0"].wait_for("r-2")
        fleet["w0"].end("r-2")
        failed, refused, good = answers.result(10)
    assert good["request_id"] == "r-2" and "error" not in good
    assert (failed["request_id"], failed["token_ids"]) == ("r-0", [65])
    assert failed["error"]["code"] == "cancelled"
    assert refused["error"]["code"] == "invalid_request"
    assert "got none of them" in refused["error"]["message"]


def test_one_input_that_fails_raises(held: tuple[ControlPlaneVLLMService, HeldFleet]) -> None:
    service, fleet = held
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(service.generate, "a", request_id="r")
        service.warm_up()
        fleet["w0"].wait_for("r")
        fleet["w0"].break_on("r", "invalid_request")
        with pytest.raises(InvalidRequest):
            answer.result(10)
    with pytest.raises(InvalidRequest, match="give exactly one of prompt"):
        service.generate("")


@pytest.mark.parametrize("priority", ["high", "HIGH", "High", 1, RequestPriority.HIGH])
def test_priority_and_tenant_travel(
    priority: Any, held: tuple[ControlPlaneVLLMService, HeldFleet]
) -> None:
    service, fleet = held
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            service.generate, "a", request_id="r", priority=priority, tenant="ada", model="m"
        )
        service.warm_up()
        fleet["w0"].wait_for("r")
        request = service.manager.control.handle("r").request
        fleet["w0"].end("r")
        answer.result(10)
    assert (request.priority, request.tenant, request.model) == (1, "ada", "m")


async def test_aprocess_and_its_cancellation() -> None:
    fleet = HeldFleet()
    service = ControlPlaneVLLMService(sim(1), make=fleet)
    try:
        one = asyncio.ensure_future(service.aprocess({"inputs": ["a", "b"], "request_id": "r"}))
        await asyncio.to_thread(service.warm_up)
        for identity in ("r-0", "r-1"):
            await asyncio.to_thread(fleet["w0"].wait_for, identity)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        for identity in ("r-0", "r-1"):
            handle = service.manager.control.handle(identity)
            with pytest.raises(Exception, match="cancelled"):
                await asyncio.to_thread(handle.result, 10)
        two = asyncio.ensure_future(service.aprocess({"inputs": "c", "request_id": "s"}))
        await asyncio.to_thread(fleet["w0"].wait_for, "s")
        fleet["w0"].say("s", [67])
        fleet["w0"].end("s")
        answer = await two
        assert isinstance(answer, dict) and answer["text"] == "C"
    finally:
        await asyncio.to_thread(service.stop)


def test_threads_share_it(llm: ControlPlaneVLLMService) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: llm.generate(f"q{n}", max_tokens=3), range(64)))
    assert len({answer["request_id"] for answer in answers}) == 64
    assert llm.manager.get_metrics().completed_requests == 64


# -- configuration -----------------------------------------------------------------------------


def test_making_it_starts_nothing(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    ledger = tmp_path / "ledger.jsonl"
    service = ControlPlaneVLLMService({**sim(), "ledger": str(ledger)})
    service.setup()
    assert not service.manager.control.ready
    assert (set(threading.enumerate()) - before, ledger.exists()) == (set(), False)
    service.stop()
    assert set(threading.enumerate()) <= before


FILE = """
[services.one]
type = "ControlPlaneVLLMService"
max_in_flight = 7
[[services.one.instances]]
instance_id = "w0"
engine = "sim"
[services.cache]
type = "SomethingOfSage"
"""


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "services.toml"
    path.write_text(FILE)
    with ControlPlaneVLLMService(path) as llm:
        assert (llm.config.name, llm.config.max_in_flight) == ("one", 7)
        assert llm.generate("Hello", max_tokens=2)["instance_id"] == "w0"
    path.write_text(FILE + '[services.two]\ntype = "ControlPlaneVLLMService"\n')
    with pytest.raises(ConfigError, match="say which of one, two"):
        ControlPlaneVLLMService(str(path))
    assert ControlPlaneVLLMService(str(path), "two").config.name == "two"


def test_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_LLM_OPS__DEFAULT_ENGINE", "sim")
    with ControlPlaneVLLMService() as llm:
        assert llm.generate("Hello", max_tokens=1)["instance_id"] == "w0"


def test_instances_as_objects_are_copied() -> None:
    shared = ExecutionInstance("w0", engine="sim", instance_type="general", options=dict(FAST))
    one, two = (ControlPlaneVLLMService({"instances": [shared]}) for _ in range(2))
    assert one.config.instances[0] == two.config.instances[0] == shared
    assert len({id(s) for s in (shared, one.config.instances[0], two.config.instances[0])}) == 3
    assert one.config.instances[0].options is not shared.options


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"scheduling_polcy": "fifo"}, UnknownName, "did you mean 'scheduling_policy'"),
        ({"instances": [{"instance_id": "a", "prot": 1}]}, UnknownName, "did you mean 'port'"),
        ({"instances": [{"instance_id": "a", "port": "1"}]}, ConfigError, "`instances[0].port`"),
        ({"vllm_instances": []}, ConfigError, '`vllm_instances`: is not read: write {"instances"'),
        ({"type": "VLLMService"}, UnknownName, "known: ControlPlaneVLLMService"),
        ({"instances": [{"instance_id": "a"}] * 2}, ConfigError, "taken by the instance at inst"),
        ({"max_in_flight": 0}, ConfigError, "`max_in_flight`: max_in_flight=0 must be at least 1"),
        (3, ConfigError, "config=3 must be a dict"),
    ],
)
def test_what_a_config_may_not_say(config: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as refused:
        ControlPlaneVLLMService(config)
    assert words in str(refused.value)


def test_a_policy_nobody_has_is_refused_when_it_is_built() -> None:
    service = ControlPlaneVLLMService({**sim(), "scheduling_policy": "fito"})
    with pytest.raises(UnknownName, match="did you mean 'fifo'"):
        service.setup()


# -- life --------------------------------------------------------------------------------------


def test_two_services_share_nothing() -> None:
    config = sim(1)
    with ControlPlaneVLLMService(config) as one, ControlPlaneVLLMService(config) as two:
        for service in (one, two):
            service.generate("Hello", request_id="same", max_tokens=2)
        one.generate("Bye", max_tokens=2)
        assert one.manager.get_metrics().completed_requests == 2
        assert two.manager.get_metrics().completed_requests == 1
        one.stop()
        assert two.generate("Hello", max_tokens=1)["text"]


def test_two_services_may_not_write_one_ledger(tmp_path: Path) -> None:
    config = {**sim(1), "ledger": str(tmp_path / "ledger.jsonl")}
    one, two = ControlPlaneVLLMService(config), ControlPlaneVLLMService(config)
    one.setup()
    with pytest.raises(ConfigError, match="written by another service of this process"):
        two.setup()
    one.stop()
    two.setup()
    two.stop()


def test_a_service_without_instances_says_so() -> None:
    with ControlPlaneVLLMService({}) as llm, pytest.raises(NoInstance, match="register one first"):
        llm.generate("Hello")


@pytest.mark.parametrize("end", ["stop", "cleanup", "close"])
def test_after_the_end_it_is_refused(end: str) -> None:
    service = ControlPlaneVLLMService(sim(1))
    service.generate("Hello", max_tokens=1)
    getattr(service, end)()
    getattr(service, end)()
    with pytest.raises(NotRunning, match="make a new one"):
        service.generate("Hello")


def test_a_forgotten_service_does_not_keep_the_interpreter() -> None:
    code = (
        "from sage_llm_ops import ControlPlaneVLLMService as S\n"
        "s = S({'instances': [{'instance_id': 'w', 'engine': 'sim', 'placement': 'process',"
        " 'options': {'speed': 1000.0}}], 'enable_pd_separation': False})\n"
        "print(s.generate('Hello', max_tokens=2)['finish_reason'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("length\n", "")
