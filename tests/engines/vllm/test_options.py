import importlib.metadata

import pytest

from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.engines.vllm import versions
from sage_llm_ops.engines.vllm.options import CPU_KV_BYTES, VllmOptions
from sage_llm_ops.types.errors import ConfigError, EngineStartError, UnknownName


def test_unknown_option() -> None:
    with pytest.raises(UnknownName, match="did you mean 'block_size'"):
        make_engine("vllm", {"model": "m", "blok_size": 1})


def test_a_worker_of_several_models_is_refused_for_what_it_is() -> None:
    with pytest.raises(ConfigError, match=r"cannot share a worker between models, only 'sim' can"):
        parse_options(VllmOptions, "vllm", {"model": "m", "models": ["a", "b"]})


@pytest.mark.parametrize(
    "given", [{}, {"model": ""}, {"model": "m", "core": "rpc"}, {"model": "m", "seed": "x"}]
)
def test_wrong_values(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="engine 'vllm'"):
        make_engine("vllm", given)


def test_engine_args_may_not_repeat_an_option() -> None:
    with pytest.raises(ConfigError, match="repeats block_size"):
        make_engine("vllm", {"model": "m", "engine_args": {"block_size": 16}})


def test_arguments() -> None:
    options = parse_options(
        VllmOptions, "vllm", {"model": "m", "engine_args": {"enable_lora": True}, "block_size": 64}
    )
    cpu = options.arguments(cpu=True)
    assert cpu["kv_cache_memory_bytes"] == CPU_KV_BYTES
    assert cpu["enforce_eager"] and cpu["enable_lora"] and cpu["block_size"] == 64
    gpu = options.arguments(cpu=False)
    assert "kv_cache_memory_bytes" not in gpu and "enforce_eager" not in gpu
    assert "core" not in gpu and "engine_args" not in gpu
    assert (options.core_on(cpu=True), options.core_on(cpu=False)) == ("inproc", "async")


@pytest.mark.parametrize(
    ("version", "fits"),
    [("0.28.0", True), ("0.32.0+cpu", True), ("0.27.9", False), ("0.33.0", False), ("1.0", False)],
)
def test_version_gate(version: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if fits:
        assert versions.check_version() == version
        return
    with pytest.raises(EngineStartError, match=r"needs vLLM >=0\.28,<0\.33, but vLLM .* found"):
        versions.check_version()


def test_adapters_have_a_slot_each_and_on_cpu_one_stays_empty() -> None:
    options = VllmOptions(model="m", lora_modules={"law": "/a", "art": "/b"})
    assert options.arguments(cpu=False)["max_loras"] == 2
    on_cpu = options.arguments(cpu=True)
    assert (on_cpu["enable_lora"], on_cpu["max_loras"]) == (True, 3)
    assert "lora_modules" not in on_cpu
    assert "enable_lora" not in VllmOptions(model="m").arguments(cpu=True)
    few = VllmOptions(model="m", lora_modules={"law": "/a"}, engine_args={"max_loras": 1})
    assert few.arguments(cpu=False)["max_loras"] == 1
    with pytest.raises(ConfigError, match=r"max_loras=1 .* at least 2"):
        few.arguments(cpu=True)
