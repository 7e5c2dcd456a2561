from __future__ import annotations

import pathlib

import pytest

from sage_llm_ops.config import ServicesConfig, load_services, parse_toml, services_from
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstanceType, PrefillingConfig

SAMPLE = pathlib.Path(__file__).with_name("003_services.toml")
HEAD = '[services.llm]\ntype = "ControlPlaneVLLMService"\n'
ROW = "[[services.llm.instances]]\n"


def load(text: str, **known: list[str]) -> ServicesConfig:
    return services_from(parse_toml(text, "s.toml"), known=known, environ={})


def test_the_sample_of_the_proposal_loads() -> None:
    service = load_services(SAMPLE, environ={}).service("llm_control_plane")
    assert (service.scheduling_policy, service.routing_strategy) == ("adaptive", "load_balanced")
    assert service.enable_pd_separation is True
    assert (service.default_engine, service.max_in_flight, service.ledger) == (None, None, None)
    prefill, decode = service.instances
    assert prefill.instance_type is ExecutionInstanceType.PREFILLING
    assert (prefill.host, prefill.port, prefill.tensor_parallel_size) == ("localhost", 8000, 4)
    assert prefill.gpu_count is None
    assert decode.instance_id == "llm-decode-1"
    assert service.line == 2


def test_known_names_are_held_against_the_file() -> None:
    with pytest.raises(UnknownName) as caught:
        load_services(SAMPLE, known={"scheduling_policy": ["fifo", "adaptiv"]}, environ={})
    error = caught.value
    assert (error.file, error.line) == (str(SAMPLE), 4)
    assert error.key == "services.llm_control_plane.scheduling_policy"
    assert "unknown scheduling policy 'adaptive': did you mean 'adaptiv'?" in str(error)


def test_every_key_arrives() -> None:
    config = load(
        HEAD + "scheduling_policy = 'fifo'\nrouting_strategy = 'round_robin'\n"
        "enable_pd_separation = false\ndefault_engine = 'sim'\nmax_in_flight = 5\nledger = 'l'\n"
        + ROW
        + "instance_id = 'w0'\nengine = 'sim'\nplacement = 'inline'\nmax_concurrency = 2\n"
        "options = { step_ms = 3, nested = { x = [1] } }\n"
        "[services.llm.instances.prefilling_config]\ntarget_batch_size = 4\n",
        engine=["sim"],
        placement=["inline"],
    )
    service = config.service()
    assert (service.max_in_flight, service.ledger, service.default_engine) == (5, "l", "sim")
    (instance,) = service.instances
    assert instance.options == {"step_ms": 3, "nested": {"x": [1]}}
    assert instance.prefilling_config == PrefillingConfig(target_batch_size=4)
    assert (instance.engine, instance.placement, instance.max_concurrency) == ("sim", "inline", 2)


def test_services_of_other_types_are_left_alone() -> None:
    config = load(
        HEAD + "[services.db]\ntype = 'VLLMService'\nanything = 1\n[services.k]\ntype = 'KVStore'\n"
    )
    assert [service.name for service in config.services] == ["llm"]
    assert config.others == ("db", "k")


def test_result_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load(HEAD).service().ledger = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("", None, None, "has no table [services.NAME]"),
        ("[service.llm]\n", 1, "service", "did you mean 'services'?"),
        ("services = 3\n", 1, "services", "3 must be a table"),
        ("[services]\nllm = 3\n", 2, "services.llm", "3 must be a table"),
        ("[services.llm]\n", 1, "services.llm", "`type` is required"),
        ("[services.llm]\ntype = 3\n", 2, "services.llm.type", "3 must be a string"),
        (
            "[services.llm]\ntype = 'ControlPlaneVllmServices'\n",
            2,
            "services.llm.type",
            "'ControlPlaneVllmServices': did you mean 'ControlPlaneVLLMService'?",
        ),
        (
            HEAD + "\nrouting_strtegy = 'x'\n",
            4,
            "services.llm.routing_strtegy",
            "unknown key 'routing_strtegy': did you mean 'routing_strategy'",
        ),
        (HEAD + "max_in_flight = 0\n", 3, "services.llm.max_in_flight", "max_in_flight=0 must"),
        (HEAD + "max_in_flight = '9'\n", 3, "services.llm.max_in_flight", "'9' must be a valid in"),
        (HEAD + "max_in_flight = true\n", 3, "services.llm.max_in_flight", "True must be a valid"),
        (HEAD + "enable_pd_separation = 1\n", 3, "services.llm.enable_pd_separation", "1 must be"),
        (HEAD + "ledger = ''\n", 3, "services.llm.ledger", "'' names nothing"),
        (
            HEAD + "[[services.llm.vllm_instances]]\n",
            3,
            "services.llm.vllm_instances",
            "write [[services.llm.instances]]",
        ),
        (HEAD + "instances = 3\n", 3, "services.llm.instances", "3 must be an array of tables"),
        (
            HEAD + "instances = [\n{instance_id='a'},\n3]\n",
            5,
            "services.llm.instances[1]",
            "3 must",
        ),
        (HEAD + ROW, 3, "services.llm.instances[0]", "`instance_id` is required"),
        (
            HEAD + ROW + "instance_idd = 'w0'\n",
            4,
            "services.llm.instances[0].instance_idd",
            "did you mean 'instance_id'",
        ),
        (
            HEAD + ROW + "instance_id = 'w0'\nport = '8000'\n",
            5,
            "services.llm.instances[0].port",
            "'8000' must be a valid integer",
        ),
        (
            HEAD + ROW + "instance_id = 'w0'\nport = 70000\n",
            5,
            "services.llm.instances[0].port",
            "port=70000 must be between 1 and 65535",
        ),
        (
            HEAD + ROW + "instance_id = 'w0'\ninstance_type = 'PREFILING'\n",
            5,
            "services.llm.instances[0].instance_type",
            "unknown instance type 'PREFILING': did you mean",
        ),
        (
            HEAD + ROW + "instance_id = 'w0'\ntensor_parallel_size = 4\ngpu_count = 2\n",
            6,
            "services.llm.instances[0].gpu_count",
            "gpu_count=2 is below the 4 ranks",
        ),
        (
            HEAD + ROW + "instance_id = 'w0'\ndecoding_config.target_latency = 3\n",
            5,
            "services.llm.instances[0].decoding_config.target_latency",
            "unknown key 'target_latency': did you mean 'target_latency_ms'?",
        ),
        (
            HEAD + ROW + "instance_id = 'w0'\n" + ROW + "instance_id = 'w0'\n",
            6,
            "services.llm.instances[1].instance_id",
            "'w0' is taken by the instance at s.toml:4",
        ),
    ],
)
def test_refusals(text: str, line: int | None, key: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    error = caught.value
    assert (error.file, error.line, error.key) == ("s.toml", line, key)
    assert words in str(error)


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (HEAD + "default_engine = 'vlm'\n", 3, "services.llm.default_engine"),
        (
            HEAD + ROW + "instance_id = 'w0'\nengine = 'vlm'\n",
            5,
            "services.llm.instances[0].engine",
        ),
    ],
)
def test_engine_names(text: str, line: int, key: str) -> None:
    assert load(text).service().name == "llm"
    with pytest.raises(UnknownName, match="'vlm': did you mean 'vllm'") as caught:
        load(text, engine=["sim", "vllm"])
    assert (caught.value.line, caught.value.key) == (line, key)


def test_service_by_name() -> None:
    two = load(HEAD + HEAD.replace(".llm", ".other"))
    assert two.service("other").name == "other"
    with pytest.raises(ConfigError, match=r"has 2 services .*: say which of llm, other"):
        two.service()
    with pytest.raises(UnknownName, match="did you mean 'other'"):
        two.service("othr")
    with pytest.raises(ConfigError, match="has 0 services"):
        load("[services.k]\ntype = 'KVStore'\n").service()
