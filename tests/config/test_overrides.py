from __future__ import annotations

from typing import Any

import pytest

from sage_llm_ops.config import ServicesConfig, parse_toml, pipeline_from, services_from
from sage_llm_ops.config.overrides import value_of
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import DecodingConfig
from sage_llm_ops.types.pipelines import PipelineSpec

SERVICES = """\
[services.llm_control_plane]
type = "ControlPlaneVLLMService"
routing_strategy = "load_balanced"
[[services.llm_control_plane.instances]]
instance_id = "llm-prefill-1"
port = 8000
[services.kv]
type = "KVStore"
"""
PIPELINE = """\
[pipeline]
name = "p"
[[operators]]
use = "observe"
[[operators]]
use = "pick"
name = "route"
strategy = "fifo"
[operators.limits]
big = 1
[[instances]]
instance_id = "w0"
[instances.options]
Seed = 1
[[instances]]
instance_id = "w__1"
"""


def services(**environ: str) -> ServicesConfig:
    return services_from(parse_toml(SERVICES, "s.toml"), environ=environ)


def pipeline(text: str = PIPELINE, **environ: str) -> PipelineSpec:
    return pipeline_from(parse_toml(text, "p.toml"), environ=environ)


def test_services() -> None:
    ours = "SAGE_LLM_OPS__SERVICES__LLM_CONTROL_PLANE__"
    worker = ours + "INSTANCES__LLM_PREFILL_1__"
    service = services(
        **{
            ours + "ROUTING_STRATEGY": "round_robin",
            ours.lower() + "max_in_flight": "7",
            worker + "PORT": "9000",
            worker + "OPTIONS__A": "x",
            worker + "DECODING_CONFIG__TARGET_LATENCY_MS": "1.5",
        }
    ).service()
    assert (service.routing_strategy, service.max_in_flight) == ("round_robin", 7)
    assert service.instances[0].port == 9000
    assert service.instances[0].options == {"a": "x"}
    assert service.instances[0].decoding_config == DecodingConfig(target_latency_ms=1.5)


def test_pipelines() -> None:
    spec = pipeline(
        SAGE_LLM_OPS__PIPELINE__MAX_IN_FLIGHT="5",
        SAGE_LLM_OPS__OPERATORS__ROUTE__STRATEGY="affinity",
        SAGE_LLM_OPS__OPERATORS__ROUTE__NEW_OPTION="[1, 2]",
        SAGE_LLM_OPS__OPERATORS__ROUTE__LIMITS__BIG="2",
        SAGE_LLM_OPS__OPERATORS__ROUTE__INPUTS='["source"]',
        SAGE_LLM_OPS__SIMULATE__MAX_NUM_SEQS="8",
        SAGE_LLM_OPS__INSTANCES__W0__MODEL_NAME="tiny",
        SAGE_LLM_OPS__INSTANCES__W0__OPTIONS__SEED="2",
        SAGE_LLM_OPS__INSTANCES__W__1__MODEL_NAME="other",
    )
    assert (spec.max_in_flight, spec.simulate) == (5, {"max_num_seqs": 8})
    route = spec.operators[1]
    assert route.inputs == ("source",)
    assert route.options == {"strategy": "affinity", "new_option": [1, 2], "limits": {"big": 2}}
    assert spec.where(1, "new_option")["file"] == "SAGE_LLM_OPS__OPERATORS__ROUTE__NEW_OPTION"
    assert spec.instances[0].options == {"Seed": 2}
    assert [instance.model_name for instance in spec.instances] == ["tiny", "other"]


def test_what_is_no_override_here() -> None:
    spec = pipeline(
        SAGE_LLM_OPS_DATA="x",
        SAGE_LLM_OPS_BUILD="x",
        SAGE_LLM_OPS__DEFAULT_ENGINE="sim",
        SAGE_LLM_OPS__SERVICES__ELSEWHERE__LEDGER="x",
    )
    assert spec == pipeline()


def test_the_file_that_was_read_stays_as_it_was() -> None:
    source = parse_toml(PIPELINE, "p.toml")
    pipeline_from(source, environ={"SAGE_LLM_OPS__OPERATORS__ROUTE__LIMITS__BIG": "2"})
    assert source.data["operators"][1]["limits"] == {"big": 1}


@pytest.mark.parametrize(
    ("variable", "value", "key", "words"),
    [
        ("SAGE_LLM_OPS__PIPELIN__NAME", "x", None, "'pipelin__name': did you mean 'pipeline'?"),
        ("SAGE_LLM_OPS__DEFAULT_ENGINE__X", "x", None, "did you mean 'default_engine'?"),
        (
            "SAGE_LLM_OPS__PIPELINE__MAX_INFLIGHT",
            "5",
            "pipeline",
            "unknown override 'max_inflight': did you mean 'max_in_flight'?",
        ),
        ("SAGE_LLM_OPS__OPERATORS__ROUT__X", "5", "operators", "'rout': did you mean 'route'?"),
        ("SAGE_LLM_OPS__INSTANCES__W2__PORT", "5", "instances", "'w2': did you mean 'w0'"),
        (
            "SAGE_LLM_OPS__INSTANCES__W0__PROT",
            "5",
            "instances[0]",
            "unknown override 'prot': did you mean 'port'",
        ),
        ("SAGE_LLM_OPS__PIPELINE", "5", "pipeline", "this is a table: name one of its keys"),
        ("SAGE_LLM_OPS__INSTANCES__W0__OPTIONS", "{}", "instances[0].options", "is a table"),
        ("SAGE_LLM_OPS__PIPELINE__NAME__X", "5", "pipeline.name", "this is one value"),
        (
            "SAGE_LLM_OPS__PIPELINE__MAX_IN_FLIGHT",
            "many",
            "pipeline.max_in_flight",
            "'many' must be a valid integer",
        ),
        (
            "SAGE_LLM_OPS__PIPELINE__MAX_IN_FLIGHT",
            "0",
            "pipeline.max_in_flight",
            "max_in_flight=0 must be at least 1",
        ),
        (
            "SAGE_LLM_OPS__INSTANCES__W0__MODEL_NAME",
            "7",
            "instances[0].model_name",
            "for the string write SAGE_LLM_OPS__INSTANCES__W0__MODEL_NAME='\"7\"'",
        ),
        (
            "SAGE_LLM_OPS__OPERATORS__ROUTE__INPUTS",
            '["observ"]',
            "operators[1].inputs[0]",
            "unknown input 'observ': did you mean 'observe'",
        ),
    ],
)
def test_refusals(variable: str, value: str, key: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(**{variable: value})
    error = caught.value
    assert (error.file, error.line, error.key) == (variable, None, key)
    assert words in str(error)


def test_a_service_of_another_type_is_not_ours_to_override() -> None:
    with pytest.raises(UnknownName, match=r"'kv'.*known: llm_control_plane"):
        services(SAGE_LLM_OPS__SERVICES__KV__SIZE="1")


def test_two_variables_for_one_key() -> None:
    with pytest.raises(ConfigError, match="sets the same as SAGE_LLM_OPS__PIPELINE__NAME; unset"):
        pipeline(SAGE_LLM_OPS__PIPELINE__NAME="a", sage_llm_ops__pipeline__name="b")


def test_two_keys_for_one_variable() -> None:
    text = PIPELINE + '[[instances]]\ninstance_id = "W-0"\n[[instances]]\ninstance_id = "w_0"\n'
    with pytest.raises(ConfigError, match="'w_0' can mean 2 or 3; rename one"):
        pipeline(text, SAGE_LLM_OPS__INSTANCES__W_0__PORT="5")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8000", 8000),
        ("true", True),
        ("1.5", 1.5),
        ('"8000"', "8000"),
        ("[1, 'a']", [1, "a"]),
        ("{ a = 1 }", {"a": 1}),
        ("load_balanced", "load_balanced"),
        ("", ""),
        ("a b # c", "a b # c"),
        ("1\nother = 2", "1\nother = 2"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert value_of(text) == value
