from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sage_llm_ops.cli.chat.talk import Conversation, talk
from sage_llm_ops.types.errors import RequestFailed

ROOT = Path(__file__).parents[2]


class Server(BaseHTTPRequestHandler):
    """Streams what a test put into `lines`, and keeps what it was asked."""

    lines: ClassVar[list[str]]
    asked: ClassVar[list[dict[str, Any]]]
    keys: ClassVar[list[str | None]]
    status = 200

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "the-model"}]}))

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.asked.append(json.loads(self.rfile.read(length)))
        self.keys.append(self.headers["Authorization"])
        self._send(self.status, "".join(f"{line}\n\n" for line in self.lines))

    def _send(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *args: object) -> None: ...


def delta(text: str) -> str:
    return "data: " + json.dumps({"choices": [{"delta": {"content": text}}]})


@pytest.fixture
def gateway() -> Iterator[tuple[str, type[Server]]]:
    kind = type("Fresh", (Server,), {"lines": [], "asked": [], "keys": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_gateway_answers_in_pieces(
    gateway: tuple[str, type[Server]],
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, server = gateway
    usage = 'data: {"choices": [], "usage": {}}'
    role = 'data: {"choices": [{"delta": {"role": "assistant"}}]}'
    server.lines = [": ping", role, delta("Hel"), delta("lo\x1b[2J"), usage, "data: [DONE]"]
    assert call("chat", "Hi", "--url", f"{url}/v1/", "--system", "Be brief.") == 0
    assert capsys.readouterr().out == "Hello·[2J\n"
    (body,) = server.asked
    assert body == {
        "model": "the-model",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
        "stream": True,
        "max_tokens": 512,
        "temperature": 0.7,
    }
    assert server.keys == ["Bearer EMPTY"]


@pytest.mark.parametrize(
    ("status", "lines", "words"),
    [
        (200, [delta("Hel")], "ended its answer in the middle"),
        (200, [delta("a"), 'data: {"error": {"message": "the worker died"}}'], "the worker died"),
        (429, ['{"error": {"message": "too many"}}'], "answered 429: too many"),
        (502, ["<html>"], "answered 502: <html>"),
    ],
)
def test_a_gateway_that_fails(
    status: int,
    lines: list[str],
    words: str,
    gateway: tuple[str, type[Server]],
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, server = gateway
    server.status, server.lines = status, lines
    assert call("chat", "Hi", "--url", url) == 2
    assert words in capsys.readouterr().err


def test_nobody_there(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("chat", "Hi", "--url", "http://127.0.0.1:9") == 2
    error = capsys.readouterr().err
    assert "nobody listens at http://127.0.0.1:9" in error
    assert "--engine sim" in error


def test_one_partner_at_a_time(
    call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("chat", "Hi", "--url", "http://x", "--engine", "sim") == 2
    assert "--url and --engine name different partners" in capsys.readouterr().err


def piped(said: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sage_llm_ops.cli", "chat", *argv],
        input=said,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_pipe_gets_one_answer() -> None:
    done = piped("Hello\n", "--engine", "sim", "--max-tokens", "7")
    assert (done.returncode, len(done.stdout)) == (0, 8), done.stderr
    told = json.loads(piped("Hello", "--engine", "sim", "--max-tokens", "7", "--json").stdout)
    assert (told["prompt"], told["model"], len(told["answer"])) == ("Hello", "sim", 7)
    assert piped("", "--engine", "sim").returncode == 2


def test_the_fleet_of_a_file(
    tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    services = str(ROOT / "configs" / "services.toml")
    assert call("chat", "Hi", "--config", services, "--max-tokens", "5") == 0
    assert len(capsys.readouterr().out) == 6
    named = ("--service", "llm_control_plane", "--max-tokens", "5")
    assert call("chat", "Hi", "--config", services, *named) == 0
    assert call("chat", "Hi", "--config", services, "--service", "llm") == 2
    assert call("chat", "Hi", "--service", "llm_control_plane") == 2
    assert call("chat", "Hi", "--config", services, "--model", "tinny") == 2
    assert "no instance serves model 'tinny'" in capsys.readouterr().err


class Echo:
    """Repeats; says `boom` by failing, `stop` by being interrupted."""

    model = "echo"

    def __init__(self) -> None:
        self.heard: list[list[str]] = []

    def answer(self, messages: list[dict[str, str]]) -> Iterator[str]:
        self.heard.append([turn["content"] for turn in messages])
        yield "You said "
        if messages[-1]["content"] == "boom":
            raise RequestFailed("the worker died")
        if messages[-1]["content"] == "stop":
            raise KeyboardInterrupt
        yield messages[-1]["content"]


def test_a_conversation_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    typed = iter(["one", "", "boom", "stop", "two", "/help", "/reset", "three", "/quit", "four"])
    echo = Echo()
    talk(Conversation(echo, "System."), read=lambda prompt: next(typed))
    assert echo.heard == [
        ["System.", "one"],
        ["System.", "one", "You said one", "boom"],
        ["System.", "one", "You said one", "stop"],
        ["System.", "one", "You said one", "two"],
        ["System.", "three"],
    ]
    captured = capsys.readouterr()
    assert "You said two\n" in captured.out
    assert "stopped; this turn is forgotten" in captured.out
    assert "error: the worker died" in captured.err
    assert "/help is no command: /reset forgets" in captured.err


def test_the_end_of_input_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    def ended(prompt: str) -> str:
        raise EOFError

    talk(Conversation(Echo()), read=ended)
    assert capsys.readouterr().out == "\n"
