"""What clients do on the wire: in pieces, too much, too slowly, several at once."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sage_llm_ops.config.gateway import GatewayConfig
from tests.service.serving import Serving, chat, held, sim

PATH = b"/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with sim() as serving:
        yield serving


@contextmanager
def wire(serving: Serving) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as sock:
        yield sock


def post(body: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST %b HTTP/%b" % (PATH, version), b"host: x", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def whole(body: dict[str, Any], *headers: bytes, version: bytes = b"1.1") -> bytes:
    raw = json.dumps(body).encode()
    return post(raw, b"content-length: %d" % len(raw), *headers, version=version)


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def statuses(data: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1.1 (\d{3})", data)]


CLOSE = b"connection: close"


def test_a_request_in_single_bytes(server: Serving) -> None:
    with wire(server) as sock:
        for byte in whole(chat(max_tokens=1), CLOSE):
            sock.sendall(bytes([byte]))
        assert statuses(read_all(sock)) == [200]


def test_pipelined_requests_are_answered_in_order(server: Serving) -> None:
    with wire(server) as sock:
        names = [b"x-request-id: pipe-%d" % number for number in range(5)]
        first = b"".join(whole(chat(max_tokens=1), name) for name in names[:3])
        sock.sendall(first + whole(chat(max_tokens=3, stream=True), names[3]))
        sock.sendall(whole(chat(max_tokens=1), names[4], CLOSE))
        data = read_all(sock)
    assert statuses(data) == [200] * 5
    assert re.findall(rb"x-request-id: (\S+)", data) == [n.partition(b": ")[2] for n in names]


def test_thousands_that_are_refused_fit_into_one_packet(server: Serving) -> None:
    one = b"GET /nothing HTTP/1.1\r\nhost: x\r\n"
    with wire(server) as sock:
        sock.sendall((one + b"\r\n") * 3000 + one + CLOSE + b"\r\n\r\n")
        assert statuses(read_all(sock)) == [404] * 3001


def test_a_request_comes_in_pieces_while_another_is_answered(server: Serving) -> None:
    big = whole(chat(max_tokens=1, user="u" * 200_000), CLOSE)
    cut = big.index(b"\r\n\r\n") + 100
    for first in (cut, 20):  # within the body, within the head
        with wire(server) as sock:
            sock.sendall(whole(chat(max_tokens=1)) + big[:first])
            answer = sock.recv(65536)
            for start in range(first, len(big), 30_000):
                sock.sendall(big[start : start + 30_000])
            assert statuses(answer + read_all(sock)) == [200, 200]


def test_a_head_is_measured_once(server: Serving) -> None:
    """20 kB in two packets are 20 kB, and below the limit."""
    head = b"".join(b"x-%d: %b\r\n" % (n, b"y" * 1000) for n in range(20))
    with wire(server) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n" + CLOSE + b"\r\n" + head)
        server.in_loop(lambda: None)
        sock.sendall(b"\r\n")
        assert statuses(read_all(sock)) == [200]


def test_who_takes_no_answers_gets_no_more_of_them() -> None:
    config = GatewayConfig(port=0, write_timeout_s=0.6)
    asked = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
    with sim(config=config) as serving, wire(serving) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.2)
        with pytest.raises(OSError):  # it stops reading, and cuts in the end
            while True:
                sock.sendall(asked * 100)
        (connection,) = serving.gateway.connections
        assert connection._transport.get_write_buffer_size() < 1 << 20
        for _ in range(100):
            if not serving.gateway.connections:
                break
            time.sleep(0.1)
        assert not serving.gateway.connections


def test_a_chunked_body(server: Serving) -> None:
    raw = json.dumps(chat(max_tokens=1)).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (raw[:7], raw[7:])) + b"0\r\n\r\n"
    with wire(server) as sock:
        sock.sendall(post(chunks, b"transfer-encoding: chunked", CLOSE))
        assert statuses(read_all(sock)) == [200]


def test_http_1_0_streams_until_the_end(server: Serving) -> None:
    with wire(server) as sock:
        sock.sendall(whole(chat(max_tokens=2, stream=True), version=b"1.0"))
        data = read_all(sock)
    assert b"transfer-encoding" not in data
    assert data.endswith(b"data: [DONE]\n\n")


def test_expect_continue(server: Serving) -> None:
    request = whole(chat(max_tokens=1), b"expect: 100-continue", CLOSE)
    head, _, body = request.partition(b"\r\n\r\n")
    with wire(server) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(body)
        assert statuses(read_all(sock)) == [200]


def test_what_is_not_http_is_told_so(server: Serving) -> None:
    with wire(server) as sock:
        sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        data = read_all(sock)
    assert statuses(data) == [400]
    assert b'"code":"bad_http"' in data


def test_too_much_is_refused_before_it_is_read() -> None:
    config = GatewayConfig(port=0, max_body_bytes=100, max_header_bytes=1000)
    with sim(config=config) as serving:
        with wire(serving) as sock:
            sock.sendall(post(b"", b"content-length: 101"))
            data = read_all(sock)
            assert statuses(data) == [413]
            assert b"101 bytes and max_body_bytes=100" in data
        with wire(serving) as sock:
            sock.sendall(post(b"65\r\n" + b"x" * 101, b"transfer-encoding: chunked"))
            assert statuses(read_all(sock)) == [413]
        with wire(serving) as sock:
            sock.sendall(post(b"", b"x-long: " + b"x" * 1000))
            assert statuses(read_all(sock)) == [431]
        with wire(serving) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nx-endless: " + b"x" * 5000)
            assert statuses(read_all(sock)) == [431]


def test_a_refused_body_that_is_still_sent_does_not_cost_the_answer() -> None:
    with sim(config=GatewayConfig(port=0, max_body_bytes=1000)) as serving, wire(serving) as sock:
        sock.sendall(post(b"", b"content-length: 1000000"))
        for _ in range(10):
            sock.sendall(b"x" * 10_000)
        assert statuses(read_all(sock)) == [413]


def test_too_slow_is_cut() -> None:
    config = GatewayConfig(port=0, header_timeout_s=0.2, body_timeout_s=0.2, keep_alive_s=0.2)
    with sim(config=config) as serving:
        with wire(serving) as idle, wire(serving) as head, wire(serving) as body:
            head.sendall(b"GET /health HT")
            body.sendall(post(b"{", b"content-length: 10"))
            assert read_all(idle) == b""
            assert statuses(read_all(head)) == [408]
            data = read_all(body)
            assert statuses(data) == [408]
            assert b"body_timeout_s=0.2" in data
        with wire(serving) as kept:
            kept.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert statuses(read_all(kept)) == [200]


def test_a_client_who_takes_nothing_is_cut_and_its_request_ends() -> None:
    config = GatewayConfig(port=0, write_timeout_s=0.3)
    with held(config) as (serving, fleet):
        worker = fleet["w0"]
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", serving.port))
            sock.sendall(whole(chat(stream=True), b"x-request-id: r"))
            worker.wait_for("r")
            handle = serving.plane.handle("r")
            while not handle.done():
                if "r" in worker.nodes:
                    try:
                        worker.say("r", [65] * 2000)
                    except KeyError:
                        break  # it was cancelled just now
        with pytest.raises(Exception, match=r"cancel|reader is \d+ tokens behind"):
            handle.result(10)


def test_there_is_room_for_so_many_connections() -> None:
    config = GatewayConfig(port=0, max_connections=1)
    with sim(config=config) as serving, wire(serving) as one, wire(serving) as other:
        data = read_all(other)
        assert statuses(data) == [503]
        assert b"max_connections=1" in data
        one.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert one.recv(100).startswith(b"HTTP/1.1 200")


def test_nagle_is_off(server: Serving) -> None:
    with wire(server) as sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        sock.recv(100)
        off: list[int] = []

        def look() -> None:
            for connection in server.gateway.connections:
                inner = connection._transport.get_extra_info("socket")
                off.append(inner.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        server.in_loop(look)
        assert off and all(off)


def test_what_is_in_flight_ends_before_the_server() -> None:
    with held() as (serving, fleet):
        with wire(serving) as busy, wire(serving) as idle:
            busy.sendall(whole(chat(), b"x-request-id: r"))
            fleet["w0"].wait_for("r")
            assert serving._loop is not None and serving.server is not None
            stopping = asyncio.run_coroutine_threadsafe(serving.server.stop(10.0), serving._loop)
            assert read_all(idle) == b""
            with pytest.raises(ConnectionRefusedError):
                wire(serving).__enter__()
            fleet["w0"].say("r", [65])
            fleet["w0"].end("r", "stop")
            data = read_all(busy)
        assert statuses(data) == [200]
        assert b"connection: close" in data
        assert stopping.result(10) is True
