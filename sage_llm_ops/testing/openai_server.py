"""A tiny OpenAI-compatible server on a real socket, that fails as it is told to.

    with OpenAIServer(owned_by="vllm") as server:
        server.faults = Faults(status=503, times=2)
        ExecutionInstance("w", model_name="m", port=server.port)

Its model continues the alphabet: the next token is the letter after the last one, so an answer can
be checked, and one that is continued elsewhere is the same. Tokens are bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import msgspec


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong with the next `times` requests for work; None: with all of them."""

    status: int = 0
    """Answer this instead, with `retry_after` if it is set."""
    retry_after: str = ""
    garbage_at: int | None = None
    """In place of this token come bytes that are no JSON."""
    truncate_at: int | None = None
    """The stream ends in order, as if whole, before this token."""
    cut_at: int | None = None
    """The connection is cut before this token."""
    hang_at: int | None = None
    """Nothing comes any more before this token, until the client goes away."""
    no_done: bool = False
    lie: int = 0
    """Added to the count of completion tokens in `usage`."""
    no_usage: bool = False
    slow_s: float = 0.0
    """Before each token."""
    times: int | None = None


class OpenAIServer:
    """`text_only`: no token ids come back, whatever was asked for. `key`: what it wants as API key.

    `seen` holds `(path, body)` of each request for work, `headers` those of the last one, `open` how
    many are being answered, `aborted` how many clients went away in the middle.
    """

    def __init__(
        self,
        model: str = "m",
        *,
        owned_by: str = "vllm",
        text_only: bool = False,
        key: str = "",
        max_model_len: int = 4096,
        port: int = 0,
    ) -> None:
        self.faults = Faults(times=0)
        self.healthy = True
        self.port = port
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.headers: dict[str, str] = {}
        self.open = self.aborted = 0
        self.changed = threading.Condition()
        self._card = {"id": model, "owned_by": owned_by, "max_model_len": max_model_len}
        self._text_only, self._key, self._limit = text_only, key, max_model_len
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Of the server, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; on the same port as before after a `stop`."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        if not ready.wait(10.0):
            raise OSError(f"port {self.port} was taken while nobody listened on it")
        return self

    def stop(self) -> None:
        """Gone at once, like a process that is killed: connections break."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def wait(self, holds: Any, timeout_s: float = 10.0) -> None:
        """Until `holds(self)`; looked at whenever a request begins or ends."""
        with self.changed:
            assert self.changed.wait_for(lambda: holds(self), timeout_s), "it did not come to hold"

    def _run(self, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        listening = asyncio.start_server(self._client, "127.0.0.1", self.port)
        server = loop.run_until_complete(listening)
        self.port = server.sockets[0].getsockname()[1]
        self._loop = loop
        ready.set()
        loop.run_forever()
        for sock in server.sockets:  # closed last: see `Relay`
            loop.remove_reader(sock.fileno())
        loop.run_until_complete(self._drop())
        server.close()
        loop.close()

    async def _drop(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)  # until those that were just accepted have begun
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await asyncio.sleep(0)  # until the transports that they aborted are closed

    # -- HTTP ---------------------------------------------------------------------------------

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            while request := await _read(reader):
                await self._answer(*request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, _Cut):
            pass
        finally:
            self._clients.discard(task)
            writer.transport.abort()

    async def _answer(
        self,
        path: str,
        headers: dict[str, str],
        content: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if path == "/health":
            return await _send(writer, 200 if self.healthy else 503, {})
        if self._key and headers.get("authorization") != f"Bearer {self._key}":
            return await _refuse(writer, 401, "wrong API key")
        if path == "/v1/models":
            return await _send(writer, 200, {"object": "list", "data": [self._card]})
        if path == "/version":
            return await _send(writer, 200, {"version": "0.0"})
        body = msgspec.json.decode(content)
        if path == "/tokenize":
            return await _send(writer, 200, {"tokens": list(body["prompt"].encode())})
        with self._counted(path, headers, body):
            faults = self._next_faults()
            if faults.status:
                return await _refuse(writer, faults.status, "as it was told", faults.retry_after)
            if body.get("model") != self._card["id"]:
                return await _refuse(
                    writer, 404, f"The model {body.get('model')!r} does not exist."
                )
            if path == "/v1/embeddings":
                return await _send(writer, 200, _embedding(body["input"]))
            prompt = _prompt(body)
            if len(prompt) + body["max_tokens"] > self._limit:
                return await _refuse(writer, 400, f"longer than {self._limit} tokens")
            streaming = asyncio.ensure_future(self._stream(writer, path, body, prompt, faults))
            leaving = asyncio.ensure_future(reader.read(1))
            try:
                await asyncio.wait({streaming, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not streaming.done():
                    self.aborted += 1
                    raise _Cut
                streaming.result()
                raise _Cut  # what `leaving` may have read is gone: the connection is used once
            finally:
                for task in (streaming, leaving):
                    task.cancel()
                await asyncio.gather(streaming, leaving, return_exceptions=True)

    async def _stream(
        self,
        writer: asyncio.StreamWriter,
        path: str,
        body: dict[str, Any],
        prompt: list[int],
        faults: Faults,
    ) -> None:
        kind = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
        writer.write(kind + b"Transfer-Encoding: chunked\r\n\r\n")
        made, reason = _continue(prompt, body)
        chat = path.endswith("/chat/completions")
        ids = body.get("return_token_ids") and not self._text_only
        for place, token in enumerate(made):
            if faults.slow_s:
                await asyncio.sleep(faults.slow_s)
            if place == faults.hang_at:
                await asyncio.Event().wait()
            if place == faults.cut_at:
                raise _Cut
            if place == faults.truncate_at:
                writer.write(b"0\r\n\r\n")
                return await writer.drain()
            last = place == len(made) - 1
            choice = _choice(token, chat=chat, ids=bool(ids), reason=reason if last else None)
            shown = b"{garbage" if place == faults.garbage_at else _json({"choices": [choice]})
            await _event(writer, shown)
        if body.get("stream_options", {}).get("include_usage") and not faults.no_usage:
            await _event(writer, _json({"choices": [], "usage": _usage(prompt, made, faults.lie)}))
        if not faults.no_done:
            await _event(writer, b"[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    @contextlib.contextmanager
    def _counted(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Iterator[None]:
        with self.changed:
            self.seen.append((path, body))
            self.headers = headers
            self.open += 1
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.open -= 1
                self.changed.notify_all()

    def _next_faults(self) -> Faults:
        left = self.faults.times
        if left == 0:
            return Faults()
        found = self.faults
        if left is not None:
            self.faults = replace(found, times=left - 1)
        return found


class _Cut(Exception):
    """The connection ends here."""


def _prompt(body: dict[str, Any]) -> list[int]:
    if "messages" in body:
        return list("".join(message["content"] for message in body["messages"]).encode())
    given = body["prompt"]
    return list(given.encode()) if isinstance(given, str) else list(given)


def _continue(prompt: list[int], body: dict[str, Any]) -> tuple[list[int], str]:
    """The letters after the prompt's last one, and why it ends."""
    made: list[int] = []
    last = prompt[-1] if prompt else ord("z")
    while len(made) < body["max_tokens"]:
        last = (last - ord("a") + 1) % 26 + ord("a")
        made.append(last)
        if any(bytes(made).decode().endswith(stop) for stop in body.get("stop") or ()):
            return made, "stop"
    return made, "length"


def _choice(token: int, *, chat: bool, ids: bool, reason: str | None) -> dict[str, Any]:
    text = chr(token)
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    choice |= {"delta": {"content": text}} if chat else {"text": text}
    return choice | ({"token_ids": [token]} if ids else {})


def _usage(prompt: list[int], made: list[int], lie: int) -> dict[str, int]:
    return {"prompt_tokens": len(prompt), "completion_tokens": len(made) + lie}


def _embedding(given: str | list[int]) -> dict[str, Any]:
    ids = list(given.encode()) if isinstance(given, str) else given
    vector = [float(len(ids)), float(sum(ids))]
    return {"data": [{"index": 0, "embedding": vector}], "usage": {"prompt_tokens": len(ids)}}


async def _read(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in lines}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    return head[0].split(" ")[1], headers, content


async def _send(
    writer: asyncio.StreamWriter, status: int, body: dict[str, Any], more: str = ""
) -> None:
    content = _json(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    await writer.drain()


async def _refuse(
    writer: asyncio.StreamWriter, status: int, message: str, retry_after: str = ""
) -> None:
    more = f"Retry-After: {retry_after}\r\n" if retry_after else ""
    await _send(writer, status, {"error": {"message": message, "code": status}}, more)


async def _event(writer: asyncio.StreamWriter, data: bytes) -> None:
    event = b"data: " + data + b"\n\n"
    writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
    await writer.drain()


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
