"""Who is broken by `make chaos`."""

from __future__ import annotations

import sys

import pytest

from sage_llm_ops.testing.chaos.members import all_there_is, checked
from sage_llm_ops.types.errors import ConfigError, UnknownName

PYTHON = "SAGE_LLM_OPS_LMDEPLOY_PYTHON"


def test_lmdeploy_is_among_them_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, sys.executable)
    assert all_there_is() == (["vllm", "vllm", "lmdeploy", "http"], "")
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    words, missing = all_there_is()
    assert "lmdeploy" not in words and "/nowhere/python" in missing and "make lmdeploy" in missing


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, "/nowhere/python")
    assert checked(["vllm", "http"]) == ["vllm", "http"]
    with pytest.raises(UnknownName, match="did you mean 'vllm'"):
        checked(["vlm"])
    for words in (["http"], ["vllm", "http", "http"]):
        with pytest.raises(ConfigError, match="http once or not at all"):
            checked(words)
    with pytest.raises(ConfigError, match="make lmdeploy"):
        checked(["vllm", "lmdeploy"])
