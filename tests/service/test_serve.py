"""`sage-llm-ops serve` as a process, and `sage-llm-ops key`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from sage_llm_ops.cli import main
from sage_llm_ops.service.gateway.auth import key_hash

SERVICES = """\
[services.llm]
type = "ControlPlaneVLLMService"
[services.llm.gateway]
port = 0
[[services.llm.instances]]
instance_id = "w0"
engine = "sim"
model_name = "m"
options = { decode_ms = [0.0, 0.0, 20.0] }
"""


def start(file: Path, *options: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sage_llm_ops.cli", "serve", "--config", str(file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )


@pytest.fixture
def services(tmp_path: Path) -> Path:
    file = tmp_path / "services.toml"
    file.write_text(SERVICES)
    return file


def test_it_serves_until_sigterm_and_ends_what_is_in_flight(services: Path) -> None:
    child = start(services)
    assert child.stdout is not None
    try:
        said = child.stdout.readline()
        url = said.removeprefix("ready: ").strip()
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10, "stream": True}
        with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=30) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            child.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert child.wait(30) == 0
    finally:
        child.kill()
        _, errors = child.communicate()
    assert "listening on http://127.0.0.1:" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (("--host", "0.0.0.0"), {}, "allow_unauthenticated = true"),
        ((), {"SAGE_LLM_OPS__SERVICES__LLM__GATEWAY__PORT": "70000"}, "GATEWAY__PORT"),
        (("--service", "lm"), {}, "did you mean 'llm'"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(
    services: Path, options: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    child = start(services, *options, **variables)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 2
    assert errors.startswith("error: ") and words in errors
    assert "Traceback" not in errors


def test_a_port_in_use_is_told(services: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        child = start(services, "--port", str(taken.getsockname()[1]))
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 2
    assert "cannot be listened on" in errors


def run(*argv: str) -> int:
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


def test_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("key", "--name", "ops", "--role", "admin", "--json") == 0
    made = json.loads(capsys.readouterr().out)
    assert made["sha256"] == key_hash(made["key"])
    assert (made["name"], made["role"]) == ("ops", "admin")
    assert run("key") == 0
    first = capsys.readouterr().out
    assert "[[services.llm_control_plane.gateway.api_keys]]" in first
    assert run("key", "--role", "root") == 2
    assert "unknown role 'root'" in capsys.readouterr().err
