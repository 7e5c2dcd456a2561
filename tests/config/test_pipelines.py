from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.config import dump_pipeline, load_pipeline, parse_toml, pipeline_from
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import DecodingConfig, ExecutionInstance
from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec

HEAD = '[pipeline]\nname = "p"\n'
OBSERVE = '[[operators]]\nuse = "observe"\n'
SERVING = """\
[pipeline]
name = "serving"
max_in_flight = 500
ledger = "ledger.jsonl"

[[operators]]
use = "observe"
inputs = ["source"]

[[operators]]
use = "admit"
max_pending = 20000

[[operators]]
use = "merge"
inputs = ["admit",
          "place"]

[[operators]]
use = "route"
name = "place"
strategy = "load_balanced"
weights = { queue = 1.5 }

[[instances]]
instance_id = "w0"
engine = "vllm"
model_name = "tiny"
[instances.options]
kv_cache_memory_bytes = 67108864
[simulate]
max_num_seqs = 64
"""


def load(text: str, environ: dict[str, str] | None = None, **known: list[str]) -> PipelineSpec:
    return pipeline_from(parse_toml(text, "p.toml"), known=known, environ=environ or {})


def test_everything_arrives(tmp_path: Any) -> None:
    (tmp_path / "p.toml").write_text(SERVING)
    spec = load_pipeline(tmp_path / "p.toml", environ={})
    assert spec.file == str(tmp_path / "p.toml")
    assert (spec.name, spec.max_in_flight, spec.ledger) == ("serving", 500, "ledger.jsonl")
    assert [operator.id for operator in spec.operators] == ["observe", "admit", "merge", "place"]
    assert [operator.inputs for operator in spec.operators] == [
        ("source",),
        None,
        ("admit", "place"),
        None,
    ]
    assert spec.operators[3].options == {"strategy": "load_balanced", "weights": {"queue": 1.5}}
    assert spec.instances[0].options == {"kv_cache_memory_bytes": 67108864}
    assert spec.simulate == {"max_num_seqs": 64}


def test_edges() -> None:
    spec = load(SERVING)
    assert [spec.inputs_of(i) for i in range(4)] == [
        ("source",),
        ("observe",),
        ("admit", "place"),
        ("merge",),
    ]
    assert [spec.feedback_of(i) for i in range(4)] == [(), (), ("place",), ()]
    assert load(HEAD + OBSERVE).inputs_of(0) == ("source",)


def test_places() -> None:
    spec = load(SERVING, {"SAGE_LLM_OPS__OPERATORS__PLACE__STRATEGY": "affinity"})
    assert spec.where(1) == {"file": "p.toml", "line": 10, "key": "operators[1]"}
    assert spec.where(1, "max_pending")["line"] == 12
    assert spec.where(1, "missing")["line"] == 10
    assert spec.where(3, "weights")["line"] == 23
    assert spec.operators[3].options["strategy"] == "affinity"
    assert spec.where(3, "strategy") == {
        "file": "SAGE_LLM_OPS__OPERATORS__PLACE__STRATEGY",
        "line": None,
        "key": "operators[3].strategy",
    }


@pytest.mark.parametrize(
    ("text", "line", "key", "words"),
    [
        ("", None, None, "has no [pipeline]"),
        (HEAD, None, None, "has no [[operators]]"),
        ("[pipelin]\n", 1, "pipelin", "unknown table 'pipelin': did you mean 'pipeline'?"),
        ("pipeline = 3\noperators = []\n", 1, "pipeline", "3 must be a table"),
        ("[pipeline]\n" + OBSERVE, 1, "pipeline", "`name` is required"),
        ("[pipeline]\nname = ''\n" + OBSERVE, 2, "pipeline.name", "must not be empty"),
        (
            HEAD + "max_inflight = 3\n" + OBSERVE,
            3,
            "pipeline.max_inflight",
            "unknown key 'max_inflight': did you mean 'max_in_flight'?",
        ),
        (
            HEAD + "max_in_flight = 0\n" + OBSERVE,
            3,
            "pipeline.max_in_flight",
            "max_in_flight=0 must be at least 1",
        ),
        (HEAD + "ledger = 3\n" + OBSERVE, 3, "pipeline.ledger", "3 must be a valid string"),
        ("operators = []\n" + HEAD, 1, "operators", "at least one operator"),
        ("operators = 3\n" + HEAD, 1, "operators", "3 must be an array of tables: [[operators]]"),
        (HEAD + OBSERVE + "[[simulate]]\n", 5, "simulate", "[{}] must be a table"),
        (HEAD + "[operators]\n", 3, "operators", "{} must be an array of tables"),
        (HEAD + "[[operators]]\nname = 'x'\n", 3, "operators[0]", "`use` is required"),
        (HEAD + "[[operators]]\nuse = ''\n", 4, "operators[0].use", "'' names nothing"),
        (HEAD + "[[operators]]\nuse = 'source'\n", 4, "operators[0].use", "where events enter"),
        (HEAD + OBSERVE + "inputs = 'x'\n", 5, "operators[0].inputs", "'x' must be a valid list"),
        (HEAD + OBSERVE + "inputs = []\n", 5, "operators[0].inputs", "[] reads nothing"),
        (
            HEAD + OBSERVE + "inputs = [\n'source',\n3]\n",
            7,
            "operators[0].inputs[1]",
            "3 must be a valid string",
        ),
        (
            HEAD + OBSERVE + "inputs = [\n'sorce']\n",
            6,
            "operators[0].inputs[0]",
            "unknown input 'sorce': did you mean 'source'?",
        ),
        (
            HEAD + OBSERVE + "inputs = ['observe']\n",
            5,
            "operators[0].inputs[0]",
            "cannot read its own output",
        ),
        (
            HEAD + OBSERVE + "inputs = ['source', 'source']\n",
            5,
            "operators[0].inputs[1]",
            "'source' is listed twice",
        ),
        (
            HEAD + OBSERVE + OBSERVE,
            6,
            "operators[1].use",
            "'observe' is taken by the operator at p.toml:3; give one of them another `name`",
        ),
        (
            HEAD + OBSERVE + "[[operators]]\nuse = 'x'\nname = 'observe'\n",
            7,
            "operators[1].name",
            "'observe' is taken",
        ),
        (
            HEAD + OBSERVE + "[[instances]]\ninstance_id = 'w'\nmodel = 'm'\n",
            7,
            "instances[0].model",
            "unknown key 'model': did you mean 'model_name'",
        ),
    ],
)
def test_refusals(text: str, line: int | None, key: str | None, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    error = caught.value
    assert (error.file, error.line, error.key) == ("p.toml", line, key)
    assert words in str(error)


def test_known_engines() -> None:
    with pytest.raises(UnknownName, match="unknown engine 'vllm'") as caught:
        load(SERVING, engine=["sim"])
    assert caught.value.line == 27


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
OPTIONS = st.dictionaries(
    NAMES.filter(lambda name: name not in ("use", "name", "inputs")),
    st.recursive(
        st.booleans() | st.integers() | st.floats(allow_nan=False) | NAMES | st.just(""),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)
INSTANCES = st.builds(
    ExecutionInstance,
    instance_id=NAMES,
    port=st.none() | st.integers(1, 65535),
    model_name=st.just("") | NAMES,
    tensor_parallel_size=st.integers(1, 8),
    instance_type=st.sampled_from(["general", "PREFILLING"]),
    decoding_config=st.none() | st.builds(DecodingConfig, target_latency_ms=st.none() | st.just(2)),
    options=OPTIONS,
)


@st.composite
def specs(draw: st.DrawFn) -> PipelineSpec:
    names = st.lists(NAMES.filter(lambda n: n != "source"), min_size=1, max_size=5, unique=True)
    ids = draw(names)
    operators = []
    for index, name in enumerate(ids):
        others = ["source", *ids[:index], *ids[index + 1 :]]
        inputs = st.lists(st.sampled_from(others), min_size=1, max_size=3, unique=True)
        operators.append(
            OperatorSpec(
                use=draw(NAMES),
                name=name,
                inputs=draw(st.none() | inputs.map(tuple)),
                options=draw(OPTIONS),
            )
        )
    return PipelineSpec(
        name=draw(NAMES),
        operators=tuple(operators),
        instances=tuple(draw(st.lists(INSTANCES, max_size=3, unique_by=lambda i: i.instance_id))),
        max_in_flight=draw(st.integers(1, 10**9)),
        ledger=draw(st.none() | NAMES),
        simulate=draw(OPTIONS),
    )


@given(specs())
@settings(max_examples=150, deadline=None)
def test_round_trip(spec: PipelineSpec) -> None:
    assert load(dump_pipeline(spec)) == spec


def test_round_trip_of_a_file_and_of_what_is_not_a_number() -> None:
    spec = load(SERVING)
    assert load(dump_pipeline(spec)) == spec
    odd = load(HEAD + OBSERVE + "x = nan\ny = -inf\n")
    again = load(dump_pipeline(odd)).operators[0].options
    assert math.isnan(again["x"]) and again["y"] == -math.inf


def test_dump_refuses_what_toml_cannot_hold() -> None:
    spec = PipelineSpec("p", (OperatorSpec("route", options={"limit": None}),))
    with pytest.raises(ConfigError, match=r"`operators\[0\].limit`: None .* cannot be written"):
        dump_pipeline(spec)
