"""A plane over OpenAI-compatible servers on real sockets."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops import ControlPlaneManager, ExecutionInstance, RequestMetadata
from sage_llm_ops.core import ControlPlane, RestartPolicy, serving
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from sage_llm_ops.testing.openai_server import Faults, OpenAIServer
from sage_llm_ops.types.errors import (
    ConfigError,
    EngineFailed,
    EngineStartError,
    InvalidRequest,
    Overloaded,
    RequestCancelled,
    RequestFailed,
)
from tests.core.fleets import QUICK, SLOW

TOKENS = {"tokenizer_kind": "bytes"}
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def instance(server: OpenAIServer, identity: str, **options: Any) -> ExecutionInstance:
    return ExecutionInstance(
        identity, host="127.0.0.1", port=server.port, model_name="m", options=options
    )


@contextmanager
def fleet(
    n: int = 1,
    *,
    server: dict[str, Any] | None = None,
    restart: RestartPolicy = QUICK,
    record: Path | None = None,
    **options: Any,
) -> Iterator[tuple[ControlPlane, list[OpenAIServer]]]:
    """A started plane over `n` servers, `w0` and on."""
    with ExitStack() as stack:
        servers = [stack.enter_context(OpenAIServer(**(server or {}))) for _ in range(n)]
        plane = ControlPlane(serving(), restart=restart, record=record)
        for number, each in enumerate(servers):
            plane.register(instance(each, f"w{number}", **options))
        stack.callback(plane.stop, 5.0)
        plane.start()
        yield plane, servers


def submit(plane: ControlPlane, n: int = 8, **fields: Any) -> RequestHandle:
    fields.setdefault("sampling_params", {"temperature": 0.0})
    if "messages" not in fields:
        fields.setdefault("prompt", "xyz")
    return plane.submit(RequestMetadata(max_tokens=n, **fields))


def test_it_needs_no_default_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_LLM_OPS__DEFAULT_ENGINE", "nonsense")
    with fleet() as (plane, _):
        assert submit(plane).result(10.0).text == "abcdefgh"


def test_text_is_counted_by_the_server() -> None:
    with fleet(server={"owned_by": "someone"}) as (plane, (server,)):
        result = submit(plane).result(10.0)
        assert (result.text, result.finish_reason) == ("abcdefgh", "length")
        usage = result.usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (3, 8, False)
        messages = [{"role": "user", "content": "xyz"}]
        assert submit(plane, messages=messages).result(10.0).text == "abcdefgh"
        path, body = server.seen[-1]
        assert (path, body["messages"]) == ("/v1/chat/completions", messages)


def test_without_its_counts_usage_is_an_estimate(caplog: pytest.LogCaptureFixture) -> None:
    with fleet() as (plane, (server,)):
        server.faults = Faults(no_usage=True)
        usage = submit(plane, 20, prompt="x" * 9).result(10.0).usage
        assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (3, 5, True)
        server.faults = Faults(lie=1000)
        with caplog.at_level(logging.WARNING):
            assert submit(plane, 20).result(10.0).usage.estimated
        assert "cannot be true" in caplog.text
        assert plane.pipeline.plane.metrics.total().output_tokens == 10, "not bytes"


def test_an_estimate_refuses_nobody_the_server_does() -> None:
    """Four bytes a token is a guess: only the server knows what is too long for it."""
    with fleet(server={"max_model_len": 100}) as (plane, _):
        handle = submit(plane, 8, prompt="x" * 1000)
        with pytest.raises(InvalidRequest, match="longer than 100 tokens"):
            handle.result(10.0)
    with fleet(server={"max_model_len": 100}, **TOKENS) as (plane, (server,)):
        with pytest.raises(InvalidRequest, match="exceed the 100"):
            submit(plane, 8, prompt="x" * 1000).result(10.0)
        assert not server.seen


def test_what_cannot_travel_as_json_is_refused_at_the_door() -> None:
    with fleet() as (plane, (server,)):
        for bad in ([{"content": object()}], ["no message"]):
            with pytest.raises(InvalidRequest, match="prompt or messages"):
                submit(plane, messages=bad)
        assert not server.seen


@pytest.mark.parametrize("faults", [Faults(cut_at=3, times=1), Faults(truncate_at=3, times=1)])
def test_tokens_go_on_at_another_server(faults: Faults) -> None:
    with fleet(2, **TOKENS) as (plane, servers):
        for server in servers:
            server.faults = faults
        broken = submit(plane, 26, prompt="z")
        assert broken.result(10.0).text == ALPHABET
        assert broken.result(0.0).attempts == 3
        (one, *_), (two, *_) = (server.seen for server in servers)
        prompts = sorted((len(body["prompt"]), body["max_tokens"]) for _, body in (one, two))
        assert prompts == [(1, 26), (4, 23)]


def test_text_ends_typed_with_what_was_made() -> None:
    with fleet(2) as (plane, servers):
        for server in servers:
            server.faults = Faults(cut_at=3)
        handle = submit(plane, 26, prompt="z")
        with pytest.raises(EngineFailed, match="option tokenizer") as failed:
            handle.result(10.0)
        assert bytes(failed.value.partial) == b"abc" and handle.text() == "abc"
        for server in servers:
            server.faults = Faults(cut_at=0, times=1)
        assert submit(plane, 26, prompt="z").result(10.0).text == ALPHABET, "nothing was delivered"


def test_a_full_server_is_passed_by() -> None:
    with fleet(2) as (plane, servers):
        servers[0].faults = Faults(status=503, retry_after="0")
        results = [submit(plane).result(10.0) for _ in range(4)]
        assert {result.instance_id for result in results} == {"w1"}
        servers[1].faults = Faults(status=429, retry_after="0")
        with pytest.raises(Overloaded, match="answered 429"):
            submit(plane).result(10.0)


def test_a_server_that_dies_takes_nobody_with_it() -> None:
    with fleet(2, restart=SLOW, **TOKENS) as (plane, servers):
        for server in servers:
            server.faults = Faults(hang_at=3)
        handles = [submit(plane, 26, prompt="z") for _ in range(10)]
        for handle in handles:
            for _ in handle.iter(10.0):
                if len(handle.tokens) == 3:
                    break
        servers[1].faults = Faults(times=0)
        on_first = [handle for handle in handles if handle.worker == "w0"]
        servers[0].stop()
        for handle in on_first:
            result = handle.result(10.0)
            assert (result.text, result.instance_id, result.attempts) == (ALPHABET, "w1", 2)
        assert len(on_first) == 5
        for handle in set(handles) - set(on_first):
            plane.cancel(handle.request_id)


def test_cancel() -> None:
    with fleet() as (plane, (server,)):
        server.faults = Faults(hang_at=2)
        handle = submit(plane)
        assert next(iter(handle.iter(10.0)))
        plane.cancel(handle.request_id)
        with pytest.raises(RequestCancelled):
            handle.result(10.0)
        server.wait(lambda s: s.aborted == 1)


def test_its_run_replays(tmp_path: Path) -> None:
    """Text travels in the recording; the decisions are those of the live run."""
    recording = tmp_path / "run.jsonl"
    with fleet(2, record=recording) as (plane, servers):
        servers[0].faults = Faults(status=500, times=3)
        for handle in [submit(plane) for _ in range(20)]:
            assert handle.result(10.0).text == "abcdefgh"
        messages = [{"role": "user", "content": "naïve 狐狸"}]
        assert submit(plane, messages=messages).result(10.0).text
    assert replay(Recording(recording), serving()).checked().same


def test_a_start_that_fails_says_why() -> None:
    with OpenAIServer(model="other") as server:
        plane = ControlPlane(serving(), restart=QUICK)
        plane.register(instance(server, "w0"))
        with pytest.raises(EngineStartError, match=r"'w0': .* does not serve model 'm'.*'other'"):
            plane.start()


def test_one_model_has_one_kind_of_stream() -> None:
    with OpenAIServer() as server:
        plane = ControlPlane(serving())
        plane.register(instance(server, "w0", **TOKENS))
        plane.register(instance(server, "w1"))
        with pytest.raises(ConfigError, match="'w1': another instance serves model 'm'"):
            plane.start()
        plane.stop(0.0)


async def test_the_coordinator_shows_who_talks_to_servers() -> None:
    with OpenAIServer() as server:
        async with ControlPlaneManager() as manager:
            manager.register_instance(instance(server, "far"))
            manager.register_instance(ExecutionInstance("near", model_name="n", engine="sim"))
            assert await manager.process_request("xyz", {"max_tokens": 2}, model_name="m")
            assert list(manager.executor.http_clients) == ["far"]
            assert manager.executor.http_clients["far"].describe()["url"] == server.url


def test_partial_is_not_lost_when_nobody_is_left() -> None:
    with fleet(restart=SLOW) as (plane, (server,)):
        server.faults = Faults(hang_at=3)
        handle = submit(plane, 26, prompt="z")
        server.wait(lambda s: s.open == 1)
        for _ in handle.iter(10.0):
            if len(handle.tokens) == 3:
                break
        server.stop()
        with pytest.raises(RequestFailed, match="is gone") as failed:
            handle.result(10.0)
        assert bytes(failed.value.partial) == b"abc"
