"""What programs and shells rely on: --json is one document and nothing else; completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from sage_llm_ops.cli.app import app

ROOT = Path(__file__).parents[2]
SERVING = str(ROOT / "pipelines" / "serving.toml")
SERVICES = str(ROOT / "configs" / "services.toml")


def cli(folder: Path, *argv: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sage_llm_ops.cli", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for child, below in getattr(command, "commands", {"": command}).items():
            yield f"{name} {child}".strip(), below


def test_every_command_has_json() -> None:
    without = [
        name
        for name, command in commands()
        if "--json" not in [o for p in command.params for o in p.opts]
    ]
    assert without == []


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger and a recording in it."""
    folder = tmp_path_factory.mktemp("ran")
    argv = ["--engine", "sim", "--prompt", "Hello", "--max-tokens", "3", "--record", "r.jsonl"]
    done = cli(folder, "run", SERVING, *argv, "--json")
    assert json.loads(done.stdout)["answers"][0]["request_id"] == "p1", done.stderr
    return folder


@pytest.mark.parametrize(
    "argv",
    [
        ("config", "check", SERVICES),
        ("pipeline", "show", SERVING),
        ("simulate", SERVING, "--requests", "20"),
        ("replay", "r.jsonl"),
        ("replay", "r.jsonl", "--pipeline", SERVING),
        ("why", "p1"),
        ("chat", "Hello", "--engine", "sim", "--max-tokens", "3"),
    ],
    ids=lambda argv: " ".join(argv[:2]),
)
def test_json_is_one_document(argv: tuple[str, ...], ran: Path) -> None:
    done = cli(ran, *argv, "--json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)


@pytest.mark.slow
def test_json_of_the_demo(tmp_path: Path) -> None:
    (tmp_path / "pipelines").symlink_to(ROOT / "pipelines")
    done = cli(tmp_path, "demo", "--json", SAGE_LLM_OPS_BUILD="sim")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["engine"], told["answered"]) == ("sim", 64)
    assert told["workers"]["total"]["completed"] >= 128
    assert "✓ 64 of 64 answered" in done.stderr


def test_a_refusal_leaves_stdout_empty(tmp_path: Path) -> None:
    done = cli(tmp_path, "config", "check", "none.toml", "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_shell_completes(tmp_path: Path) -> None:
    def completed(words: str, position: int) -> list[str]:
        done = cli(
            tmp_path,
            _SAGE_LLM_OPS_COMPLETE="complete_bash",
            COMP_WORDS=words,
            COMP_CWORD=str(position),
        )
        return done.stdout.split()

    assert completed("sage-llm-ops si", 1) == ["simulate"]
    assert completed("sage-llm-ops config ", 2) == ["check"]
    assert "--temperature" in completed("sage-llm-ops chat --temp", 2)


def test_completion_is_installed(tmp_path: Path) -> None:
    done = cli(
        tmp_path,
        "--install-completion",
        "bash",
        HOME=str(tmp_path),
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".bash_completions" / "sage-llm-ops.sh"
    assert "_SAGE_LLM_OPS_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
