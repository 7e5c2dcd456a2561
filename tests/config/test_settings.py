from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from sage_llm_ops.config.settings import default_engine, importable
from sage_llm_ops.types.errors import ConfigError, UnknownName

VARIABLE = "SAGE_LLM_OPS__DEFAULT_ENGINE"


def engine(chosen: str | None = None, *installed: str, **environ: str) -> str:
    return default_engine(
        chosen, environ=environ, installed=lambda name: name in installed, known=("sim", "vllm")
    )


def test_the_only_real_engine() -> None:
    assert engine() == "sim"
    assert engine(None, "vllm") == "vllm"
    assert engine(None, "lmdeploy") == "lmdeploy"


def test_several_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"installed \(vllm, lmdeploy\): choose one") as caught:
        engine(None, "lmdeploy", "vllm")
    assert caught.value.key == "default_engine"
    assert VARIABLE in str(caught.value)


def test_who_beats_whom() -> None:
    assert engine("sim", "vllm", "lmdeploy") == "sim"
    assert engine("vllm", SAGE_LLM_OPS__DEFAULT_ENGINE="sim") == "sim"


def test_the_variable_is_checked() -> None:
    with pytest.raises(UnknownName, match="unknown engine 'vlm': did you mean 'vllm'") as caught:
        engine(SAGE_LLM_OPS__DEFAULT_ENGINE="vlm")
    assert caught.value.file == VARIABLE
    with pytest.raises(ConfigError, match="3 must be the name of an engine"):
        engine(SAGE_LLM_OPS__DEFAULT_ENGINE="3")
    with pytest.raises(ConfigError, match="sets the same as"):
        engine(SAGE_LLM_OPS__DEFAULT_ENGINE="sim", sage_llm_ops__default_engine="sim")


def test_importable(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert importable("msgspec")
    assert not importable("no_package_has_this_name")
    (tmp_path / "only_a_directory").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not importable("only_a_directory")


def test_the_room_imports_without_pydantic() -> None:
    code = "import sys, sage_llm_ops.config; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
