"""What was asked when workers died of it, kept from the other workers for a while."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request

MOST = 1000
"""Contents that are remembered; the oldest gives way."""

_encode = msgspec.msgpack.Encoder().encode


def content(request: Request) -> str:
    """Model, prompt and sampling as one name, the same in every process; empty where nobody knows
    the prompt, as with a trace that only counts tokens."""
    if not request.tokens and not request.blocks:
        return ""
    asked = (request.model, request.task, request.tokens, request.blocks, request.sampling)
    return blake2b(_encode(asked), digest_size=16).hexdigest()


class Quarantine:
    """Contents, and the request that first showed what each of them does."""

    def __init__(self) -> None:
        self.held: dict[str, RequestId] = {}

    def add(self, request: Request) -> tuple[str, str]:
        """Keep its content: its name, and that of one that is forgotten for it; either may be empty,
        where there is nothing to keep, or it is kept already."""
        name = content(request)
        if not name or name in self.held:
            return "", ""
        oldest = next(iter(self.held)) if len(self.held) >= MOST else ""
        self.held.pop(oldest, None)
        self.held[name] = request.id
        return name, oldest

    def forget(self, name: str) -> None:
        """Its time is over."""
        self.held.pop(name, None)

    def first(self, request: Request) -> RequestId | None:
        """The request whose content this one repeats."""
        return self.held.get(content(request))
