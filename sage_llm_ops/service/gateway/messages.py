"""One HTTP request, one answer that is there as a whole, and the framing of one that is streamed."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

JSON = "application/json"
_encode = msgspec.json.Encoder().encode
_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_LINES[499] = b"HTTP/1.1 499 Client Closed Request\r\n"


@dataclass(slots=True)
class HttpRequest:
    """What came in. Header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool
    old: bool = False
    """HTTP/1.0: knows no chunks."""
    body: bytes = b""
    id: str = ""
    """Of the request in the plane, in the logs and in `x-request-id`."""
    came: float = 0.0
    call: Any = None
    """What the application made of the head."""
    refusal: Answer | None = None
    """Known before the body was read."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and the headers beside the usual ones."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())
    kind: str = JSON

    def head(self, request: HttpRequest, date: bytes) -> bytes:
        """Everything before the body."""
        return b"%bcontent-type: %b\r\ncontent-length: %d\r\n%b" % (
            _LINES[self.status],
            self.kind.encode(),
            len(self.body),
            _common(request, self.headers, date),
        )


def stream_head(request: HttpRequest, date: bytes) -> bytes:
    """The head of a stream of events; proxies are told not to gather them."""
    framing = b"" if request.old else b"transfer-encoding: chunked\r\n"
    headers = (("cache-control", "no-cache"), ("x-accel-buffering", "no"))
    return b"%bcontent-type: text/event-stream; charset=utf-8\r\n%b%b" % (
        _LINES[200],
        framing,
        _common(request, headers, date),
    )


def piece(request: HttpRequest, data: bytes) -> bytes:
    """A part of a stream, framed as its head said."""
    return data if request.old else b"%x\r\n%b\r\n" % (len(data), data)


def json_answer(value: object, status: int = 200, *headers: tuple[str, str]) -> Answer:
    """A value as JSON."""
    return Answer(status, _encode(value), headers)


def _common(request: HttpRequest, headers: tuple[tuple[str, str], ...], date: bytes) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return b"date: %b\r\nx-request-id: %b\r\n%b%b\r\n" % (
        date,
        request.id.encode("latin-1"),
        b"" if request.keep_alive else b"connection: close\r\n",
        more.encode("latin-1"),
    )
