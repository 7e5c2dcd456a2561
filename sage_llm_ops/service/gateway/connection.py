"""One client's connection: HTTP/1.1 between the socket and the application.

llhttp (through httptools, as in uvicorn) parses; what is here is what it leaves open: limits,
time-outs, one request at a time, an answer before the body is read, backpressure, and that a client
who leaves ends the work done for it. Why not a server of somebody else's: docs/adr/0006.

    idle ─► head ─► body ─► busy (a task runs the application) ─► idle, or lingering ─► closed
                             ▲                                 │
                             └── unread, until it took enough ◄┘

Requests may come while others are answered: `_part` is what the parser is in the middle of, whatever
the state. `unread`: the client has not taken its answers, so nothing more is read or answered. In
`lingering` the last answer is out and the sending side is shut; what the client still sends is
thrown away for a moment, because a close with unread bytes would reset the connection and could
take the answer with it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import deque
from typing import Any, final

import httptools

from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.service.gateway.application import Application
from sage_llm_ops.service.gateway.errors import (
    HttpError,
    body_too_large,
    error_answer,
    head_too_large,
)
from sage_llm_ops.service.gateway.messages import Answer, HttpRequest, piece, stream_head

log = logging.getLogger("sage_llm_ops.gateway")

BACKLOG_BYTES = 64 << 10
"""Bytes of requests to come that are read while one is served; then the socket is left alone."""
LINGER_S = 2.0


@final
class Connection(asyncio.Protocol):
    """Callbacks come from the event loop alone."""

    def __init__(self, app: Application, config: GatewayConfig) -> None:
        self.app = app
        self.config = config
        self.deadline: float | None = None
        """When `expired` is due, on the loop's clock; the server looks about twice a second."""
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._parser = httptools.HttpRequestParser(self)
        self._state = "idle"
        self._request: HttpRequest | None = None
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._part = ""
        """`head` or `body`: what the parser is in the middle of."""
        self._size = 0
        """Bytes of the whole headers, or of the body, so far."""
        self._raw = 0
        """Bytes that came since the head began and did not end it."""
        self._unsent = 0
        """Bytes of answers that the client had not taken when that was looked at last."""
        self._deaf = False
        """What still comes belongs to nothing that will be answered."""
        self._ready: deque[HttpRequest] = deque()
        self._backlog = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._status = 0

    # -- the transport's calls ----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self.app.opened(self):
            self._refuse(
                HttpError(
                    503,
                    f"{self.config.max_connections} connections are open and "
                    f"max_connections={self.config.max_connections}; try again, or raise it",
                    code="too_many_connections",
                    retry_after_s=1.0,
                )
            )
            self._next()
            return
        self._expect("idle", self.config.header_timeout_s)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._deaf:
            return
        if self._task is None and self._state != "unread":
            self._feed(data)
            self._next()
            return
        self._backlog += data
        if len(self._backlog) > BACKLOG_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A client that sends nothing more is taken for gone: nobody who waits for an answer
        closes half of a connection."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone, and so is the reason to work for it."""
        self._deaf, self.deadline = True, None
        self.app.closed(self)
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        """The client takes less than there is."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """It took it."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        if self._state == "unread" and not self._transport.is_closing():
            if self.app.draining:
                self._linger()
                return
            self._rest()
            self._transport.resume_reading()
            self._next()

    # -- the server's calls -------------------------------------------------------------------

    def expired(self) -> None:
        """`deadline` passed."""
        self.deadline = None
        if self._state in ("head", "body"):
            limit = "header_timeout_s" if self._state == "head" else "body_timeout_s"
            self._refuse(
                HttpError(
                    408,
                    f"the {self._state} of the request did not come within "
                    f"{limit}={getattr(self.config, limit):g} s; send it faster, or raise it",
                    code="request_timeout",
                )
            )
            self._next()
        elif self._state == "idle" and not self._transport.get_write_buffer_size():
            self._transport.close()
        elif not self._taking():
            if self._transport.get_write_buffer_size():
                log.warning("a client took nothing for %g s: cut", self.config.write_timeout_s)
            self._transport.abort()

    def _taking(self) -> bool:
        """Whether the client takes what is ready for it, if slowly: then it has more time."""
        before, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if not 0 < self._unsent < before:
            return False
        self.deadline = self._loop.time() + self.config.write_timeout_s
        return True

    def wind_down(self) -> None:
        """Close now if nothing is being served, else after the answer."""
        if self._state == "idle":
            self._transport.close()

    def cut(self) -> None:
        """Close whatever happens."""
        self._transport.abort()

    # -- the parser's calls -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target, self._headers, self._body, self._size = b"", {}, [], 0
        self._request, self._part = None, "head"

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        self._size += len(name) + len(value)
        known = self._headers.get(key)
        self._headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self._deaf:
            return
        parser, config = self._parser, self.config
        request = self._request = HttpRequest(
            parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            self._headers,
            keep_alive=parser.should_keep_alive(),
            old=parser.get_http_version() == "1.0",
            came=time.monotonic(),
        )
        refusal = self.app.gate(request, self)  # also gives it its id
        size = self._size + len(self._target)
        length = request.headers.get("content-length", "0")
        if size > config.max_header_bytes:
            refusal = error_answer(head_too_large(size, config))
        elif refusal is None and length.isdecimal() and int(length) > config.max_body_bytes:
            refusal = error_answer(body_too_large(length, config))
        self._size, self._part = 0, "body"
        has_body = length != "0" or "transfer-encoding" in request.headers
        if refusal is not None and (has_body or refusal.status == 431):
            self._hang_up(request, refusal)
            return
        request.refusal = refusal
        if has_body:
            self._expect("body", config.body_timeout_s)
            if request.headers.get("expect", "").lower() == "100-continue" and not self._task:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        if self._deaf or self._request is None:
            return
        self._body.append(data)
        self._size += len(data)
        if self._size > self.config.max_body_bytes:
            too_large = body_too_large(f"{self._size} or more", self.config)
            self._hang_up(self._request, error_answer(too_large))

    def on_message_complete(self) -> None:
        self._part = ""
        if self._deaf or self._request is None:
            return
        request, self._request = self._request, None
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._state, self.deadline = "idle", None
        self._ready.append(request)

    # -- reading ------------------------------------------------------------------------------

    def _feed(self, data: bytes) -> None:
        if self._state == "idle":
            self._expect("head", self.config.header_timeout_s)
        before = len(self._ready)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # we stay with HTTP/1.1, which is allowed; then nothing can follow
            for request in self._ready:
                request.keep_alive = False
        except httptools.HttpParserError as error:
            if not self._deaf:
                said = f"this is not HTTP/1.1: {error}"
                self._refuse(HttpError(400, said, code="bad_http"))
        # llhttp keeps what is no whole header yet. What came behind another request in one packet is
        # not told apart from it.
        inside = self._part == "head" and len(self._ready) == before
        self._raw = self._raw + len(data) if inside else 0
        if self._raw > 2 * self.config.max_header_bytes and not self._deaf:
            self._refuse(head_too_large(self._raw, self.config))

    def _refuse(self, error: HttpError) -> None:
        """What came, or did not, is no request that could be served."""
        request = HttpRequest("", "", {}, keep_alive=False, came=time.monotonic())
        self.app.gate(request, self)
        self._hang_up(request, error_answer(error))

    def _hang_up(self, request: HttpRequest, answer: Answer) -> None:
        """The last answer of this connection, once those before it are out."""
        self._deaf, self._request = True, None
        request.refusal, request.keep_alive = answer, False
        self._ready.append(request)

    # -- answering ----------------------------------------------------------------------------

    def _next(self) -> None:
        """Go on with what has come: one request at a time, and none while answers are not taken. A
        loop, because thousands that are refused fit into one packet."""
        while self._task is None and self._state not in ("unread", "lingering"):
            if self._transport.is_closing():
                return
            if self._ready:
                self._begin(self._ready.popleft())
            elif self._backlog:
                data, self._backlog = bytes(self._backlog), bytearray()
                self._transport.resume_reading()
                self._feed(data)
            else:
                return

    def _begin(self, request: HttpRequest) -> None:
        self._state, self.deadline = "busy", None
        if request.refusal is not None:
            self._write(request, request.refusal)
            self._done(request)
        else:
            self._task = self._loop.create_task(self._serve(request))

    async def _serve(self, request: HttpRequest) -> None:
        try:
            answer = await self.app.serve(request)
        except asyncio.CancelledError:
            self._task = None
            self._transport.abort()
            self.app.answered(request, 499)
            raise
        except Exception:
            # Half of an answer may be out, so no other can follow.
            log.exception("request %s: %s %s broke", request.id, request.method, request.target)
            self._task = None
            self._transport.abort()
            self.app.answered(request, 500)
            return
        self._task = None
        if answer is not None:
            self._write(request, answer)
        self._done(request)
        self._next()

    def _write(self, request: HttpRequest, answer: Answer) -> None:
        if self.app.draining:
            request.keep_alive = False
        if self._transport.is_closing():
            return
        head = answer.head(request, self.app.date)
        self._transport.write(head if request.method == "HEAD" else head + answer.body)
        self._status = answer.status

    def _done(self, request: HttpRequest) -> None:
        self.app.answered(request, self._status)
        if self._transport.is_closing():
            return
        self._unsent = self._transport.get_write_buffer_size()
        if not request.keep_alive or self.app.draining:
            self._linger()
        elif self._writable is not None:
            self._transport.pause_reading()
            self._expect("unread", self.config.write_timeout_s)
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing is being answered."""
        config = self.config
        limits = {"head": config.header_timeout_s, "body": config.body_timeout_s}
        self._expect(self._part or "idle", limits.get(self._part, config.keep_alive_s))

    def _linger(self) -> None:
        self._deaf = True
        self._backlog.clear()
        self._ready.clear()
        self._expect("lingering", self.config.write_timeout_s if self._unsent else LINGER_S)
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def _expect(self, state: str, within_s: float) -> None:
        self._state = state
        self.deadline = self._loop.time() + within_s

    # -- the application's hands for a stream -------------------------------------------------

    def begin(self, request: HttpRequest, first: bytes) -> None:
        """The head of a stream and its first piece, in one packet."""
        if self.app.draining:
            request.keep_alive = False
        if request.old:
            request.keep_alive = False
        self._status = 200
        self._transport.write(stream_head(request, self.app.date) + piece(request, first))

    async def send(self, request: HttpRequest, data: bytes) -> None:
        """Another piece; waits while the client takes nothing."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(piece(request, data))
        if self._writable is not None:
            self.deadline = self._loop.time() + self.config.write_timeout_s
            self._unsent = self._transport.get_write_buffer_size()
            await self._writable
            self.deadline = None

    def end(self, request: HttpRequest, last: bytes) -> None:
        """The last piece."""
        if not self._transport.is_closing():
            tail = b"" if request.old else b"0\r\n\r\n"
            self._transport.write(piece(request, last) + tail)
