"""Server-sent events: one `data:` line each."""

from __future__ import annotations

import msgspec

_encode = msgspec.json.Encoder().encode

DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    """JSON has no raw line breaks, so one line is always enough."""
    return b"data: %b\n\n" % _encode(value)
