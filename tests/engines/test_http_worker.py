"""The worker against a server on a real socket that fails as it is told to."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from sage_llm_ops.engines.http.options import options_of
from sage_llm_ops.engines.http.server import Server
from sage_llm_ops.engines.http.thread import LoopThread
from sage_llm_ops.engines.http.worker import HttpWorker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.openai_server import Faults, OpenAIServer
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Accepted, Done, Failed, Tokens

Make = Callable[..., HttpWorker]

TOKENS = {"tokenizer_kind": "bytes"}
QUICK = {"start_timeout_s": 0.2, "connect_timeout_s": 1.0, "read_timeout_s": 1.0}


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as found:
        yield found


@pytest.fixture
def make(uplink: RecordingUplink) -> Iterator[Make]:
    made: list[HttpWorker] = []
    thread = LoopThread()

    def build(port: int, name: str = "w", **options: Any) -> HttpWorker:
        instance = ExecutionInstance(name, placement="http", model_name="m")
        options.setdefault("base_url", f"http://127.0.0.1:{port}")
        instance.instance_type = options.pop("instance_type", instance.instance_type)
        instance.options = {**TOKENS, **options}
        made.append(HttpWorker(instance, uplink, thread=thread))
        return made[-1]

    yield build
    for worker in made:
        worker.stop(5.0)
    assert thread.join(5.0), "the loop's thread was left"


@pytest.fixture
def up(make: Make, server: OpenAIServer, uplink: RecordingUplink) -> HttpWorker:
    worker = make(server.port)
    worker.start()
    uplink.wait_up("w")
    return worker


def node(number: int, n: int = 4, prompt: bytes = b"abc", **fields: Any) -> PlanNode:
    sampling = fields.pop("sampling", SamplingParams(max_tokens=n, temperature=0.0))
    given = {"tokens": pack(list(prompt)), "n_tokens": len(prompt), "sampling": sampling, **fields}
    return PlanNode(NodeId(number), RequestId("r"), "w", 1, **given)


def failed(uplink: RecordingUplink, number: int) -> Failed:
    end = uplink.wait_end(number)
    assert isinstance(end, Failed), end
    return end


def test_tokens_both_ways(up: HttpWorker, server: OpenAIServer, uplink: RecordingUplink) -> None:
    assert up.submit(node(1, 6, offset=3))
    assert uplink.wait_end(1) == Done(NodeId(1), "length", 3, 6)
    assert bytes(uplink.ids(1)) == b"defghi"
    accepted, first, *_ = uplink.events(1)
    assert isinstance(accepted, Accepted) and isinstance(first, Tokens) and first.offset == 3
    ((path, body),) = server.seen
    assert path == "/v1/completions" and body["prompt"] == list(b"abc")


def test_it_says_what_it_is(up: HttpWorker, uplink: RecordingUplink) -> None:
    hello = uplink.wait_up("w")
    assert (hello.engine, hello.engine_version, hello.model) == ("http", "vllm 0.0", "m")
    can = hello.capabilities
    assert (can.max_model_len, can.tasks, can.ignores) == (4096, ("generate",), ())
    about = up.describe()
    assert (about["state"], about["engine"], about["url"]) == ("up", "vllm", up.options.url)


def test_an_openai_server_honours_less_and_speaks_text(make: Make, uplink: RecordingUplink) -> None:
    with OpenAIServer(owned_by="someone", text_only=True) as server:
        worker = make(server.port, tokenizer_kind="")
        worker.start()
        can = uplink.wait_up("w").capabilities
        assert {"top_k", "min_tokens", "ignore_eos"} <= set(can.ignores) and can.chat_template
        worker.submit(node(1, tokens=b"", n_tokens=0, untokenised="xyz"))
        assert uplink.wait_end(1) == Done(NodeId(1), "length", 0, 4, 0, None, (3, 4))
        assert bytes(uplink.ids(1)) == b"abcd"
        messages = [{"role": "user", "content": "hey"}]
        worker.submit(node(2, tokens=b"", n_tokens=0, untokenised=messages))
        assert isinstance(uplink.wait_end(2), Done)
        assert server.seen[-1][0] == "/v1/chat/completions"
        special = SamplingParams(max_tokens=1, skip_special_tokens=False)
        worker.submit(node(3, untokenised="a", sampling=special))
        assert failed(uplink, 3).code == "capability"
        worker.stop(5.0)


def test_embeddings(make: Make, server: OpenAIServer, uplink: RecordingUplink) -> None:
    worker = make(server.port, instance_type="embedding")
    worker.start()
    assert uplink.wait_up("w").capabilities.tasks == ("embed",)
    worker.submit(node(1, task="embed"))
    assert uplink.wait_end(1) == Done(NodeId(1), "stop", 3, 0, 0, [3.0, float(sum(b"abc"))])
    worker.stop(5.0)


@pytest.mark.parametrize(
    ("faults", "code", "why"),
    [
        (Faults(status=400), "invalid_request", "answered 400: as it was told"),
        (Faults(status=422), "invalid_request", "422"),
        (Faults(status=401), "engine_failed", "no key, as api_key_env is not set"),
        (Faults(status=404), "no_instance", "404"),
        (Faults(status=429, retry_after="0"), "overloaded", "429"),
        (Faults(status=503, retry_after="0.01"), "overloaded", "503"),
        (Faults(status=500), "engine_failed", "500"),
        (Faults(garbage_at=2), "engine_failed", "garbage"),
        (Faults(truncate_at=2), "engine_failed", "without [DONE] (after 2 ids)"),
        (Faults(cut_at=2), "engine_failed", "broke off"),
        (Faults(no_done=True), "engine_failed", "without [DONE] (after 4 ids)"),
        (Faults(lie=1), "engine_failed", "5 completion tokens"),
    ],
    ids=lambda value: str(getattr(value, "status", "")) if isinstance(value, Faults) else None,
)
def test_what_goes_wrong_has_a_name(
    up: HttpWorker,
    server: OpenAIServer,
    uplink: RecordingUplink,
    faults: Faults,
    code: str,
    why: str,
) -> None:
    server.faults = faults
    up.submit(node(1))
    end = failed(uplink, 1)
    assert end.code == code and why in end.message, end
    assert server.url in end.message
    server.faults = Faults(times=0)
    up.submit(node(2))
    assert isinstance(uplink.wait_end(2), Done), "one request's trouble is not the worker's"
    assert not [entry for entry in uplink.log if entry[0] == "down"]


def test_no_token_ids_although_promised(make: Make, uplink: RecordingUplink) -> None:
    with OpenAIServer(text_only=True) as server:
        worker = make(server.port)
        worker.start()
        uplink.wait_up("w")
        worker.submit(node(1))
        assert failed(uplink, 1).code == "capability"
        worker.stop(5.0)


@pytest.mark.parametrize(
    ("faults", "name"),
    [
        (Faults(hang_at=0), "first_token_timeout_s"),
        (Faults(hang_at=2), "token_timeout_s"),
    ],
)
def test_silence_has_limits(
    make: Make, server: OpenAIServer, uplink: RecordingUplink, faults: Faults, name: str
) -> None:
    worker = make(server.port, **{"first_token_timeout_s": 5.0, "token_timeout_s": 5.0, name: 0.05})
    worker.start()
    uplink.wait_up("w")
    server.faults = faults
    worker.submit(node(1))
    end = failed(uplink, 1)
    assert f"nothing came for 0.05 s ({name})" in end.message
    server.wait(lambda s: s.aborted == 1 and not s.open)


def test_cancel_closes_the_connection(
    up: HttpWorker, server: OpenAIServer, uplink: RecordingUplink
) -> None:
    server.faults = Faults(hang_at=2)
    up.submit(node(1))
    uplink.wait(lambda log: len(log.ids(1)) == 2)
    up.cancel(NodeId(1))
    assert uplink.wait_end(1) == Done(NodeId(1), "cancelled", 3, 2)
    server.wait(lambda s: s.aborted == 1 and not s.open)
    up.submit(node(2))
    up.cancel(NodeId(2))  # before its task has begun
    assert uplink.wait_end(2) == Done(NodeId(2), "cancelled", 3, 0)
    up.cancel(NodeId(2))
    up.cancel(NodeId(77))
    server.faults = Faults(times=0)
    up.submit(node(3))
    assert isinstance(uplink.wait_end(3), Done)
    assert all(len(uplink.ends(number)) == 1 for number in (1, 2, 3))


def test_the_server_goes_and_comes_back(
    up: HttpWorker, server: OpenAIServer, uplink: RecordingUplink
) -> None:
    server.faults = Faults(hang_at=1)
    for number in range(1, 6):
        up.submit(node(number))
    uplink.wait(lambda log: all(log.ids(number) for number in range(1, 6)))
    server.stop()
    assert "is gone" in uplink.wait_down("w")
    assert not up.submit(node(9)) and up.describe()["state"] == "down"
    assert not any(uplink.ends(number) for number in range(1, 6)), "they went with the worker"
    up.start()
    server.faults = Faults(times=0)
    server.start()
    uplink.wait_up("w", incarnation=2)
    up.submit(node(10))
    assert isinstance(uplink.wait_end(10), Done)
    assert [entry[0] for entry in uplink.log].count("down") == 1


def test_an_ill_server_is_given_some_checks(
    make: Make, server: OpenAIServer, uplink: RecordingUplink
) -> None:
    worker = make(server.port, health_every_s=0.01, health_strikes=3)
    worker.start()
    uplink.wait_up("w")
    server.healthy = False
    down = uplink.wait_down("w")
    assert "3 health checks failed" in down and "503" in down
    worker.start()  # patient: it waits until the server is well
    server.healthy = True
    uplink.wait_up("w", incarnation=2)


def test_kill_is_a_death_and_stop_is_none(
    up: HttpWorker, server: OpenAIServer, uplink: RecordingUplink
) -> None:
    server.faults = Faults(hang_at=1)
    up.submit(node(1))
    uplink.wait(lambda log: log.ids(1))
    up.kill()
    assert "killed on request" in uplink.wait_down("w")
    server.wait(lambda s: not s.open)
    up.start()
    uplink.wait_up("w", incarnation=2)
    with pytest.raises(IntegrityError, match="while it runs"):
        up.start()
    up.submit(node(2))
    uplink.wait(lambda log: log.ids(2))
    up.stop(5.0)
    server.wait(lambda s: not s.open)
    assert [entry[0] for entry in uplink.log if entry[0] != "event"] == ["up", "down", "up"]
    assert not uplink.ends(1) and not uplink.ends(2)
    up.stop(5.0)
    up.kill()
    up.cancel(NodeId(2))


def test_a_server_that_is_not_there(make: Make, uplink: RecordingUplink) -> None:
    with OpenAIServer() as server:
        port = server.port
    make(port, **QUICK).start()
    down = uplink.wait_down("w")
    assert f"http://127.0.0.1:{port} was not healthy within 0.2 s" in down
    assert "start the server" in down


@pytest.mark.parametrize(
    ("server_is", "options", "why"),
    [
        ({"model": "other"}, {}, "does not serve model 'm'; it serves 'other'"),
        ({"owned_by": "someone"}, {}, "leave out the option tokenizer"),
        ({"key": "secret"}, {}, "401: wrong API key; it was sent no key"),
        ({"key": "secret"}, {"api_key_env": "T_KEY"}, "T_KEY (api_key_env) is not set"),
        ({}, {"base_url": "https://gpu1", "ca_file": "/none.pem"}, "ca_file='/none.pem'"),
    ],
)
def test_a_server_that_is_another(
    make: Make,
    uplink: RecordingUplink,
    server_is: dict[str, Any],
    options: dict[str, Any],
    why: str,
) -> None:
    """Told at once: waiting would not mend it."""
    with OpenAIServer(**server_is) as server:
        make(server.port, **options).start()
        assert why in uplink.wait_down("w")


def test_a_server_that_reads_otherwise(
    make: Make, server: OpenAIServer, uplink: RecordingUplink
) -> None:
    pytest.importorskip("tokenizers")
    make(server.port, tokenizer_kind="", tokenizer=str(tiny_model())).start()
    assert "has another tokenizer than the option" in uplink.wait_down("w")


def test_the_key_is_sent_and_never_told(
    make: Make, uplink: RecordingUplink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "T_KEY", "secret")
    with OpenAIServer(key="secret") as server:
        worker = make(server.port, api_key_env="T_KEY")
        worker.start()
        uplink.wait_up("w")
        worker.submit(node(1))
        assert isinstance(uplink.wait_end(1), Done)
        server.faults = Faults(status=403)
        worker.submit(node(2))
        end = failed(uplink, 2)
        assert "the key in T_KEY (api_key_env)" in end.message
        told = f"{end} {worker.describe()} {uplink.log} {worker.options}"
        assert "secret" not in told
        worker.stop(5.0)


def test_many_at_once(up: HttpWorker, uplink: RecordingUplink, server: OpenAIServer) -> None:
    threads = [
        threading.Thread(
            target=lambda base: [up.submit(node(base + k, 8)) for k in range(25)],
            args=(100 * (index + 1),),
        )
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for base in range(100, 500, 100):
        for number in range(base, base + 25):
            assert uplink.wait_end(number) == Done(NodeId(number), "length", 3, 8)
            assert bytes(uplink.ids(number)) == b"defghijk"


async def test_a_health_check_that_trickles_ends() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.02)
        writer.close()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        instance = ExecutionInstance(
            "w", model_name="m", host="127.0.0.1", port=port, options={"read_timeout_s": 0.2}
        )
        server = Server(options_of(instance))
        with pytest.raises(httpx.ReadTimeout, match=r"/health was not answered whole within 0.2 s"):
            await server.ill()
        await server.close()
        await asyncio.sleep(0.05)
