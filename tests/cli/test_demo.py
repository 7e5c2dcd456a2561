from __future__ import annotations

import os
import pathlib
import shlex
import signal
import subprocess
import sys

import pytest

from sage_llm_ops.cli.demo.stage import choose
from sage_llm_ops.config.settings import importable
from sage_llm_ops.types.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[2]
CLI = [sys.executable, "-m", "sage_llm_ops.cli"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "SAGE_LLM_OPS_BUILD"}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def checkout(folder: pathlib.Path) -> pathlib.Path:
    """A folder that looks like a checkout to the demo: `.demo` is written into it."""
    (folder / "pipelines").symlink_to(ROOT / "pipelines")
    return folder


def cli(folder: pathlib.Path, env: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, *argv]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def check_the_whole_demo(folder: pathlib.Path, env: dict[str, str], first: str) -> None:
    done = cli(folder, env, "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(first)
    assert "\x1b" not in done.stdout, "a log gets no terminal codes"
    assert done.stderr == ""
    sentences = [line for line in lines if line.startswith("✓")]
    assert len(sentences) == 3
    assert "4 of 4 prompts given to both workers gave the same tokens" in sentences[0]
    exactly = "✓ 64 of 64 answered, none twice; 64 token for token as in act 1"
    assert sentences[1].startswith(exactly)
    commands = lines[lines.index("next:") + 1 : -1]
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(command)
        start = next(n for n, word in enumerate(words) if word in ("why", "simulate", "pipeline"))
        after = cli(folder, env, *words[start:])
        assert after.returncode == 0, after.stderr
        if words[start] == "why":
            assert "attempt 1 failed (worker_lost)" in after.stdout
            assert "attempt 2 →" in after.stdout
    replayed = cli(folder, env, "replay", ".demo/recording.jsonl")
    assert replayed.returncode == 0
    assert "the same decisions" in replayed.stdout


@pytest.mark.slow
def test_on_simulated_workers(tmp_path: pathlib.Path) -> None:
    env = environment(SAGE_LLM_OPS_BUILD="sim")
    first = "engine=sim: asked for by SAGE_LLM_OPS_BUILD=sim"
    check_the_whole_demo(checkout(tmp_path), env, first)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(not importable("vllm"), reason="vLLM is not installed")
def test_on_vllm(tmp_path: pathlib.Path) -> None:
    check_the_whole_demo(checkout(tmp_path), environment(), "engine=vllm ")


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["engine=sim", "are up after", "2. the same", "starts again ..."])
def test_ctrl_c_ends_it_cleanly(sign: str, tmp_path: pathlib.Path) -> None:
    """At the sign, wherever the demo is then."""
    child = subprocess.Popen(
        [*CLI, "demo"],
        cwd=checkout(tmp_path),
        env=environment(SAGE_LLM_OPS_BUILD="sim", PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if sign in line:
            break
    children = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert errors == ""
    assert not [pid for pid in children if pathlib.Path(f"/proc/{pid}").exists()]


def test_which_engine_and_why() -> None:
    def nothing(package: str) -> bool:
        return False

    missing = choose(None, environ={}, installed=nothing)
    assert missing.engine == "sim"
    assert missing.line.startswith("engine=sim: vLLM is not installed")
    asked = choose(None, environ={"SAGE_LLM_OPS_BUILD": "sim"})
    assert "asked for by SAGE_LLM_OPS_BUILD=sim" in asked.line
    with pytest.raises(ConfigError, match="--model big: engine=sim"):
        choose("big", environ={}, installed=nothing)
