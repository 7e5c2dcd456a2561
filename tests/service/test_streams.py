"""Streams while they run: what is sent when, and what happens to those nobody reads."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.core import RestartPolicy
from sage_llm_ops.testing import HeldFleet
from tests.core.fleets import SLOW
from tests.service.serving import MODEL, Serving, chat, error_of, held

CHAT = "/v1/chat/completions"
Held = tuple[Serving, HeldFleet]


@pytest.fixture
def setup() -> Iterator[Held]:
    with held() as both:
        yield both


class Background:
    """A call on a thread of its own."""

    def __init__(self, serving: Serving, body: dict[str, Any], identity: str) -> None:
        self.answer: httpx.Response | None = None
        self._args = (serving, body, identity)
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        serving, body, identity = self._args
        with serving.client() as client:
            self.answer = client.post(CHAT, json=body, headers={"x-request-id": identity})

    def result(self) -> httpx.Response:
        self._thread.join(15)
        assert self.answer is not None
        return self.answer


def test_each_token_is_sent_when_it_is_there(setup: Held) -> None:
    serving, fleet = setup
    worker = fleet["w0"]
    told = threading.Thread(target=lambda: (worker.wait_for("r"), worker.say("r", [72])))
    told.start()
    with (
        serving.client() as client,
        client.stream(
            "POST", CHAT, json=chat(stream=True), headers={"x-request-id": "r"}
        ) as response,
    ):
        told.join()
        lines = response.iter_lines()
        texts = []
        for number in range(4):  # the next token is made only when the one before has come
            while not texts or len(texts) == number:
                line = next(lines)
                if line.startswith("data: "):
                    content = json.loads(line[6:])["choices"][0]["delta"]["content"]
                    if content:
                        texts.append(content)
            worker.say("r", [105 + number])
        worker.end("r", "stop")
        rest = [line for line in lines if line]
    assert texts == ["H", "i", "j", "k"]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "stop"


def test_half_a_character_and_a_stop_string_are_held_back(setup: Held) -> None:
    serving, fleet = setup
    worker = fleet["w0"]
    call = Background(serving, chat(stream=True, stop="END"), "r")
    worker.wait_for("r")
    for ids in (b"caf", b"\xc3", b"\xa9 E", b"N", b"x E", b"ND"):
        worker.say("r", list(ids))
    worker.end("r", "stop")
    pieces = [
        json.loads(line[6:])["choices"][0]["delta"].get("content", "")
        for line in call.result().text.split("\n\n")
        if line.startswith("data: {")
    ]
    assert "".join(pieces) == "café ENx "
    assert not any("\ufffd" in piece or "END" in piece for piece in pieces)
    whole = Background(serving, chat(stop=["END"]), "s")
    worker.wait_for("s")
    worker.say("s", list("café ENx END".encode()))
    worker.end("s", "stop")
    assert whole.result().json()["choices"][0]["message"]["content"] == "café ENx "


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_a_client_who_leaves_ends_the_request(setup: Held, stream: bool, begun: bool) -> None:
    serving, fleet = setup
    worker = fleet["w0"]
    client = serving.client()

    if stream and begun:
        first = threading.Thread(target=lambda: (worker.wait_for("r"), worker.say("r", [65])))
        first.start()
        with client.stream(
            "POST", CHAT, json=chat(stream=True), headers={"x-request-id": "r"}
        ) as response:
            next(response.iter_raw())
        first.join()
        client.close()
    else:
        body = json.dumps(chat(stream=stream)).encode()
        with socket.create_connection(("127.0.0.1", serving.port)) as sock:
            sock.sendall(
                b"POST %b HTTP/1.1\r\nhost: x\r\nx-request-id: r\r\ncontent-length: %d\r\n\r\n%b"
                % (CHAT.encode(), len(body), body)
            )
            worker.wait_for("r")
            if begun:
                worker.say("r", [65])
    handle = serving.plane.handle("r")
    with pytest.raises(Exception, match=r"cancel|Cancel"):
        handle.result(10)
    assert worker.cancels == ["r"]
    assert not worker.nodes, "its place was not freed"


def test_an_error_before_the_first_token_has_a_status(setup: Held) -> None:
    serving, fleet = setup
    call = Background(serving, chat(stream=True, timeout_ms=5_000_000), "r")
    fleet["w0"].wait_for("r")
    fleet["w0"].deaf = False
    serving.plane.cancel("r")
    answer = call.result()
    assert (answer.status_code, error_of(answer)["code"]) == (499, "cancelled")


def test_an_error_later_is_an_event(setup: Held) -> None:
    serving, fleet = setup
    call = Background(serving, chat(stream=True), "r")
    fleet["w0"].wait_for("r")
    fleet["w0"].say("r", [65])
    serving.plane.cancel("r")
    lines = [line for line in call.result().text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["error"]["code"] == "cancelled"


def test_a_deadline_is_408(setup: Held) -> None:
    serving, _ = setup
    answer = Background(serving, chat(timeout_ms=1), "r").result()
    assert (answer.status_code, error_of(answer)["code"]) == (408, "deadline_expired")


@pytest.mark.parametrize("limit", ["max_in_flight", "max_concurrency"])
def test_overload_says_when_to_come_back(limit: str) -> None:
    config = GatewayConfig(port=0, **({limit: 1} if limit == "max_concurrency" else {}))  # type: ignore[arg-type]
    spec = {limit: 1} if limit == "max_in_flight" else {}
    with held(config, **spec) as (serving, fleet):
        call = Background(serving, chat(max_tokens=1), "r")
        fleet["w0"].wait_for("r")
        with serving.client() as client:
            refused = client.post(CHAT, json=chat())
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert limit in error_of(refused)["message"]
            fleet["w0"].say("r", [65])
            fleet["w0"].end("r")
            assert call.result().status_code == 200


def test_a_request_waits_through_a_restart() -> None:
    with held(restart=RestartPolicy(first_s=0.3, most_s=0.3)) as (serving, fleet):
        fleet["w0"].kill()
        call = Background(serving, chat(max_tokens=1), "r")
        fleet["w0"].wait_for("r")
        fleet["w0"].say("r", [65])
        fleet["w0"].end("r")
        assert call.result().status_code == 200


@pytest.mark.parametrize(
    ("code", "status"), [("engine_failed", 502), ("capability", 400), ("invalid_request", 400)]
)
def test_what_the_engine_says_has_a_status(code: str, status: int) -> None:
    with held(restart=SLOW) as (serving, fleet):
        serving.plane.pipeline.configure("recover", "max_attempts", 1)
        call = Background(serving, chat(max_tokens=1), "r")
        fleet["w0"].wait_for("r")
        fleet["w0"].break_on("r", code)
        assert call.result().status_code == status


def test_what_engines_die_of_is_not_to_be_sent_again() -> None:
    with held(restart=SLOW) as (serving, fleet):
        serving.plane.pipeline.configure("recover", "max_deaths", 1)
        call = Background(serving, chat(max_tokens=1), "r")
        fleet["w0"].wait_for("r")
        fleet["w0"].kill()
        answer = call.result()
        assert (answer.status_code, error_of(answer)["code"]) == (422, "quarantined")


def test_without_an_engine_it_is_503() -> None:
    config = GatewayConfig(port=0, engine_wait_s=0.1)
    with held(config, restart=SLOW) as (serving, fleet), serving.client() as client:
        fleet["w0"].kill()
        waited = client.post(CHAT, json=chat())
        assert (waited.status_code, error_of(waited)["code"]) == (503, "worker_lost")
        assert "engine_wait_s=0.1" in error_of(waited)["message"]
        assert "retry-after" in waited.headers
        refused = client.post(CHAT, json=chat())
        assert (refused.status_code, error_of(refused)["code"]) == (503, "no_engine_up")
        assert "retry-after" in refused.headers
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200


def test_one_of_many_prompts_that_fails_ends_the_others(setup: Held) -> None:
    serving, fleet = setup
    with serving.client() as client:
        answers: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: answers.append(
                client.post(
                    "/v1/completions",
                    json={"model": MODEL, "prompt": ["a", "b"], "max_tokens": 4},
                    headers={"x-request-id": "r"},
                )
            )
        )
        thread.start()
        fleet["w0"].wait_for("r-0")
        fleet["w0"].wait_for("r-1")
        serving.plane.cancel("r-0")
        thread.join(10)
        assert answers[0].status_code == 499
        with pytest.raises(Exception, match="cancel"):
            serving.plane.handle("r-1").result(10)
