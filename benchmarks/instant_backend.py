"""An OpenAI server that answers at once, for the routers that need one behind them.

    python -m benchmarks.instant_backend PORT

Whatever is asked, one token is the answer, written beforehand: what is measured is the router.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools

MODEL = "m"
_WHOLE = (
    b'{"id":"chatcmpl-0","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"x"},"logprobs":null,"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":8000,"total_tokens":8001,"completion_tokens":1}}'
)
_MODELS = b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x"}]}'
_CHUNK = (
    b'data: {"id":"chatcmpl-0","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{%b},"logprobs":null,"finish_reason":%b}]}\n\n'
)
_EVENTS = (
    _CHUNK % (b'"role":"assistant","content":"x"', b"null"),
    _CHUNK % (b"", b'"length"'),
    b"data: [DONE]\n\n",
)


def _json(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


_ANSWER, _LISTED, _OK = _json(_WHOLE), _json(_MODELS), _json(b"{}")
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in _EVENTS)
    + b"0\r\n\r\n"
)


class Backend(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._url, self._streams = b"", False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        tail = body[-200:] + body[:200]
        self._streams |= b'"stream":true' in tail or b'"stream": true' in tail

    def on_message_complete(self) -> None:
        if self._url.startswith(b"/v1/models"):
            self._transport.write(_LISTED)
        elif not self._url.startswith(b"/v1/"):
            self._transport.write(_OK)
        else:
            self._transport.write(_STREAM if self._streams else _ANSWER)


async def main(port: int) -> None:
    """Until it is killed."""
    server = await asyncio.get_running_loop().create_server(Backend, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
