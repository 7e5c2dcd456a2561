from typing import Any

import pytest

from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.engines.registry import engine_options, make_engine, make_worker, placement_of
from sage_llm_ops.testing.echo_engine import ECHO, EchoEngine
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import CapabilityError, ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance


def test_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        make_engine("vlm")


def test_an_engine_of_ones_own() -> None:
    assert isinstance(make_engine(ECHO), EchoEngine)
    with pytest.raises(ConfigError, match="cannot be imported"):
        make_engine("nowhere:Engine")
    with pytest.raises(ConfigError, match="no subclass of BaseEngine"):
        make_engine("collections:OrderedDict")


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ("vllm", "process")),
        ({"engine": "sim"}, ("sim", "inline")),
        ({"engine": "sim", "placement": "process"}, ("sim", "process")),
        ({"placement": "inline"}, ("vllm", "inline")),
        ({"placement": "http"}, ("http", "http")),
        ({"engine": "http"}, ("http", "http")),
        ({"port": 8000}, ("http", "http")),
        ({"engine": "vllm", "host": "gpu1"}, ("http", "http")),
    ],
)
def test_placement(fields: dict[str, Any], found: tuple[str, str]) -> None:
    assert placement_of(ExecutionInstance("a", **fields), "vllm") == found


def test_what_is_not_built_is_refused() -> None:
    with pytest.raises(CapabilityError, match="not built yet; use placement 'process'"):
        placement_of(ExecutionInstance("a", placement="ray"), "vllm")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"placement": "process", "port": 8000}, "placement='process' contradicts"),
        ({"engine": "sim", "port": 8000}, "engine='sim' is not reached over HTTP"),
    ],
)
def test_a_server_and_something_else(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        placement_of(ExecutionInstance("a", **fields), "vllm")


def test_unknown_placement() -> None:
    with pytest.raises(UnknownName, match="did you mean 'process'"):
        placement_of(ExecutionInstance("a", placement="proces"), "vllm")


def test_options_are_refused_before_anything_is_spawned() -> None:
    with pytest.raises(UnknownName, match="did you mean 'max_model_len'"):
        make_worker(
            ExecutionInstance("a", model_name="m", options={"max_model_length": 1}),
            RecordingUplink(),
        )
    with pytest.raises(ConfigError, match="Expected `int"):
        make_worker(
            ExecutionInstance("a", model_name="m", options={"max_model_len": "long"}),
            RecordingUplink(),
        )


def test_the_instance_completes_the_options() -> None:
    instance = ExecutionInstance("a", model_name="m", tensor_parallel_size=2, options={"seed": 1})
    assert engine_options(instance, "vllm") == {
        "model": "m",
        "served_model_name": "m",
        "tensor_parallel_size": 2,
        "seed": 1,
    }
    assert engine_options(ExecutionInstance("a", options={"step_s": 1.0}), ECHO) == {"step_s": 1.0}


def test_process_worker() -> None:
    worker = make_worker(ExecutionInstance("a", engine=ECHO), RecordingUplink())
    assert isinstance(worker, ProcessWorker) and worker.incarnation == 0
    assert worker.describe()["state"] == "down"
    worker.stop(1)
