import pytest

from sage_llm_ops.engines.lmdeploy.options import LmdeployOptions
from sage_llm_ops.engines.options import parse_options
from sage_llm_ops.engines.registry import check_instance, engine_options, make_engine, make_worker
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance


def options(**given: object) -> LmdeployOptions:
    return parse_options(LmdeployOptions, "lmdeploy", {"model": "m", **given})


def test_unknown_option() -> None:
    with pytest.raises(UnknownName, match="did you mean 'session_len'"):
        make_engine("lmdeploy", {"model": "m", "sesion_len": 1})


@pytest.mark.parametrize(
    "given",
    [{}, {"model": ""}, {"model": "m", "backend": "triton"}, {"model": "m", "quant_policy": 5}],
)
def test_wrong_values(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="engine 'lmdeploy'"):
        make_engine("lmdeploy", given)


def test_engine_args_may_not_repeat_an_option() -> None:
    with pytest.raises(ConfigError, match="repeats tp"):
        options(engine_args={"tp": 2})


def test_the_size_of_the_cache_is_said_once() -> None:
    with pytest.raises(ConfigError, match="not both"):
        options(cache_max_entry_count=0.5, num_gpu_blocks=64)


def test_one_set_of_options_for_both_backends() -> None:
    given = options(
        session_len=8192,
        max_batch_size=64,
        block_size=64,
        num_gpu_blocks=1000,
        quant_policy=8,
        tp=2,
        engine_args={"empty_init": True},
    )
    assert given.arguments("pytorch") == {
        "session_len": 8192,
        "max_batch_size": 64,
        "block_size": 64,
        "num_gpu_blocks": 1000,
        "enable_prefix_caching": True,
        "quant_policy": 8,
        "tp": 2,
        "dp": 1,
        "ep": 1,
        "empty_init": True,
    }
    assert given.arguments("turbomind") == {
        "session_len": 8192,
        "max_batch_size": 64,
        "cache_block_seq_len": 64,
        "cache_max_entry_count": 1000,
        "enable_prefix_caching": True,
        "quant_policy": 8,
        "tp": 2,
        "dp": 1,
        "cp": 1,
        "ep": 1,
        "empty_init": True,
    }


@pytest.mark.parametrize(
    ("backend", "foreign"),
    [
        ("pytorch", {"cp": 2}),
        ("pytorch", {"communicator": "nccl"}),
        ("turbomind", {"lora_modules": {"a": "/a"}}),
        ("turbomind", {"eager_mode": True}),
    ],
)
def test_what_the_other_backend_knows_is_refused(backend: str, foreign: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"means nothing to its backend '{backend}'"):
        options(backend=backend, **foreign)
    options(**foreign)


def test_adapters_by_vllms_name() -> None:
    assert options(lora_modules={"a": "/a"}).arguments("pytorch")["adapters"] == {"a": "/a"}


def test_the_instance_says_what_the_options_do_not() -> None:
    instance = ExecutionInstance(
        "w", model_name="m", tensor_parallel_size=2, data_parallel_size=2, options={"dp": 4}
    )
    assert engine_options(instance, "lmdeploy") == {
        "model": "m",
        "served_model_name": "m",
        "tp": 2,
        "dp": 4,
    }
    instance.pipeline_parallel_size = 2
    with pytest.raises(ConfigError, match="no pipeline parallelism"):
        check_instance(instance, "lmdeploy")


def test_ranks_of_the_pytorch_engine_are_processes() -> None:
    assert not make_engine("lmdeploy", {"model": "m"}).spawns
    assert make_engine("lmdeploy", {"model": "m", "tp": 2}).spawns
    assert not make_engine("lmdeploy", {"model": "m", "tp": 2, "backend": "turbomind"}).spawns


def test_an_interpreter_that_is_not_there() -> None:
    instance = ExecutionInstance("w", model_name="m", options={"python": "/no/such/python"})
    with pytest.raises(ConfigError, match=r"option python='/no/such/python' .* is no program"):
        make_worker(instance, RecordingUplink(), "lmdeploy")
