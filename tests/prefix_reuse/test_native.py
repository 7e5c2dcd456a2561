"""How the compiled tree is found, made, or done without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sage_llm_ops.prefix_reuse import native

WHICH = """
import logging
logging.basicConfig(format="%(message)s")
from sage_llm_ops.prefix_reuse import PrefixReuseIndex
index = PrefixReuseIndex(4)
index.insert(range(8), "w")
print(type(index.tree).__name__, index.lookup(range(9)).of("w"))
"""


def run(**environment: str) -> tuple[str, str]:
    """What another process uses, and what it says of it."""
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", WHICH],
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip(), done.stderr


@pytest.fixture
def compiler() -> None:
    if native.library() is None:
        pytest.skip("no C compiler")


def test_it_is_compiled_once(tmp_path: Path, compiler: None) -> None:
    assert run(XDG_CACHE_HOME=str(tmp_path))[0] == "CompiledTree 8"
    (made,) = (tmp_path / "sage-llm-ops" / "native").iterdir()
    before = made.stat().st_mtime_ns
    assert run(XDG_CACHE_HOME=str(tmp_path), PATH="/nowhere", CC="cc")[0] == "CompiledTree 8"
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PATH": "/nowhere"}, "no C compiler"),
        ({"CC": "false"}, "false -O3"),
        ({"CC": "/nowhere/cc"}, "No such file"),
    ],
)
def test_without_a_compiler_it_runs_in_python_and_says_so(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    out, warned = run(XDG_CACHE_HOME=str(tmp_path), **environment)
    assert out == "PythonTree 8"
    assert "runs in Python" in warned
    assert said in warned


def test_python_on_request(tmp_path: Path) -> None:
    assert run(XDG_CACHE_HOME=str(tmp_path), SAGE_LLM_OPS_NATIVE="0") == ("PythonTree 8", "")
    assert not list(tmp_path.iterdir())


def test_no_code_is_loaded_from_where_others_can_write(tmp_path: Path) -> None:
    directory = tmp_path / "sage-llm-ops" / "native"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    out, warned = run(XDG_CACHE_HOME=str(tmp_path))
    assert out == "PythonTree 8"
    assert "writable by others" in warned
