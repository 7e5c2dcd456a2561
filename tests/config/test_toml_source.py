from __future__ import annotations

import pathlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage_llm_ops.config import parse_toml, pipeline_from, read_toml, services_from
from sage_llm_ops.config.toml_source import dotted
from sage_llm_ops.config.toml_writer import value_text
from sage_llm_ops.types.errors import ConfigError

WORDS = """[services.a] [services.a.instances] [[services.a.instances]] [pipeline] [[operators]]
    [[instances]] [instances.options] type="ControlPlaneVLLMService" name="p" use="route" use=3
    inputs=["source"] inputs=[3] inputs=[] inputs={} instance_id="w0" instance_id=7 port=0 port="1"
    max_in_flight=-1 max_in_flight=true gpu_count=0 prefilling_config={x=1} options=5 a.b=1 a=[1
    '''x \"""y instances=[1] services=3 pipeline=[] operators=[[]] instances={} x=99e9999
    instance_type=["x"] = . d=2021-02-30 ledger="" \\u0000"""
FRAGMENTS = st.sampled_from(WORDS.split())


@given(st.lists(FRAGMENTS, max_size=14).map("\n".join) | st.text(max_size=60))
@example("x = " + "9" * 5000)
@example("x = " + "[" * 5000)
@example("x = " + "[" * 300 + "]" * 300)
@example("pipeline = []\noperators = 3")
@example("[pipeline]\nname='p'\n[[operators]]\nuse='a'\n[[instances]]\noptions = 5")
@settings(max_examples=400, deadline=None)
def test_nothing_but_config_errors(text: str) -> None:
    variables = {
        "SAGE_LLM_OPS__INSTANCES__0__OPTIONS__X": "1",
        "SAGE_LLM_OPS__PIPELINE__NAME": "n",
        "SAGE_LLM_OPS__SERVICES__A__LEDGER": "l",
    }
    for environ in ({}, variables):
        for load in (pipeline_from, services_from):
            try:
                load(parse_toml(text, "f.toml"), environ=environ)
            except ConfigError as error:
                assert "f.toml" in str(error) or "SAGE_LLM_OPS__" in str(error)


def test_syntax_error_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml('a = 1\nb = "open\n', "s.toml")
    assert (caught.value.file, caught.value.line) == ("s.toml", 2)
    assert str(caught.value).startswith("s.toml:2: not TOML: ")


def test_key_given_twice_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_toml("a = 1\n\na = 2\n", "s.toml")
    assert caught.value.line == 3


def test_unreadable_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigError, match="byte 0xe9 is not UTF-8") as caught:
        read_toml(tmp_path / "latin.toml")
    assert caught.value.line == 2


def test_line_of_what_is_around() -> None:
    source = parse_toml("[a]\nb = 1\n", "s.toml")
    assert source.line(("a", "b", "not", "there")) == 2
    assert source.line(("a", "missing")) == 1
    assert source.line(("z",)) is None


def test_dotted() -> None:
    assert dotted(("services", "llm", "instances", 0, "port")) == "services.llm.instances[0].port"
    assert dotted(()) is None


@pytest.mark.parametrize("value", [None, b"bytes", {"x": object()}, [None], "\ud800"])
def test_what_toml_cannot_hold(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        value_text(value, "operators[0].x")
    assert str(caught.value.key).startswith("operators[0].x")
