"""Bytes of a stream of server-sent events to the data of each event.

Split at line ends of the protocol alone: text libraries (httpx's `aiter_lines` among them) also
split at U+2028 and its like, which servers write unescaped into their JSON.
"""

from __future__ import annotations

from sage_llm_ops.types.errors import ProtocolError

LONGEST_EVENT = 8 << 20
"""Bytes; a server that never ends a line must not take all memory."""


class SseParser:
    """`feed` gives the data of the events that ended with these bytes; half an event is kept."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `ProtocolError` for an event of more than `LONGEST_EVENT` bytes."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._size += len(line)  # of the whole line: empty ones take memory, too
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
            # Comments keep the connection alive; names, ids and retry times mean nothing here.
        if len(self._rest) + self._size > LONGEST_EVENT:
            raise ProtocolError(f"an event of the stream is longer than {LONGEST_EVENT} bytes")
        return events
