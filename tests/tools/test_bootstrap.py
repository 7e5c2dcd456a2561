import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bootstrap
import pytest
from builds import BUILDS
from stamp import Stamp

TOOLS = sorted(Path(bootstrap.__file__).parent.glob("*.py"))
CPU = BUILDS["cpu"]


@pytest.fixture
def venv(tmp_path):
    """An environment that was finished, and its stamp."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path, Stamp("key", "cpu", "3.11.7", str(tmp_path), "", "")


def test_a_whole_environment_is_brought_up_to_date(venv, python311):
    assert bootstrap.unfit(*venv, python311) == ""


def test_a_patch_release_of_python_is_no_reason_to_rebuild(venv, python311):
    assert bootstrap.unfit(*venv, replace(python311, version=(3, 11, 9))) == ""


def test_an_interrupted_one_is_rebuilt(venv, python311):
    assert bootstrap.unfit(venv[0], None, python311) == "no finished install in it"


def test_one_made_with_another_python_or_elsewhere_is_rebuilt(venv, python311):
    root, old = venv
    assert "3.11.7" in bootstrap.unfit(root, old, replace(python311, version=(3, 12, 1)))
    assert "/elsewhere" in bootstrap.unfit(root, replace(old, root="/elsewhere"), python311)


def test_one_whose_python_is_gone_is_rebuilt(venv, python311):
    root, old = venv
    python = root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(root / "gone")
    assert "does not start" in bootstrap.unfit(root, old, python311)


def test_torch_is_looked_for_in_the_users_sources_first():
    index = ["--torch-backend", "cpu"]
    assert bootstrap.torch_backends(CPU, own_sources=True) == [[], index]
    assert bootstrap.torch_backends(CPU, own_sources=False) == [index]
    assert bootstrap.torch_backends(BUILDS["sim"], own_sources=False) == [[]]


@pytest.mark.parametrize(
    ("output", "step"),
    [
        ("error: No space left on device (os error 28)", "free disk space"),
        ("cause: dns error", "pip config set global.index-url"),
        ("torch==2.13.0+cpu has no wheels", "Another Python"),
        ("Failed to fetch: host/torch/\ncause: dns error", "Another Python"),
        ("a compiler crashed", "run it again"),
    ],
)
def test_a_failed_install_names_the_next_step(output, step):
    assert step in bootstrap.next_step(output)


def test_the_users_variables_do_not_lead_uv_astray(monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example")
    env = bootstrap.clean_env()
    assert "VIRTUAL_ENV" not in env
    assert "PYTHONPATH" not in env
    assert env["PIP_INDEX_URL"] == "https://mirror.example"


@pytest.mark.parametrize("path", TOOLS, ids=lambda path: path.name)
def test_an_old_python_gets_as_far_as_saying_that_it_is_old(path):
    oldest = (3, 6) if path.name == "bootstrap.py" else (3, 8)
    ast.parse(path.read_text(), feature_version=oldest)


def test_a_refused_build_is_a_sentence_and_not_a_traceback():
    script = Path(bootstrap.__file__)
    env = {**os.environ, "SAGE_LLM_OPS_BUILD": "gpu"}
    argv = [sys.executable, str(script)]
    out = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert out.stdout.startswith("SAGE_LLM_OPS_BUILD='gpu' is not a build")
    assert out.stderr == ""
