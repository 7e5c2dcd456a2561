"""From tokens to the text of a stream: whole characters, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sage_llm_ops.engines.base import TextDecoder
from sage_llm_ops.engines.tokenizers.stops import stop_at


@final
class StreamedText:
    """All pieces joined are what `RequestHandle.text` gives at the end: cut where a stop string
    was complete first. A piece's end that could be the beginning of one is held back until that
    is certain."""

    def __init__(self, decoder: TextDecoder, stops: Sequence[str]) -> None:
        self._decoder = decoder
        self._stops = tuple(stops)
        self._held = ""
        self._over = False

    def push(self, ids: Sequence[int]) -> str:
        """The text that became certain."""
        new = self._decoder.push(ids)
        return self._certain(new) if self._stops else new

    def flush(self) -> str:
        """What was held back, at the end."""
        new = self._decoder.flush()
        if not self._stops:
            return new
        certain = self._certain(new)
        rest, self._held = self._held, ""
        return certain + rest

    def _certain(self, new: str) -> str:
        if self._over:
            return ""
        text = self._held + new
        cut = stop_at(text, self._stops)
        if cut is not None:
            self._over, self._held = True, ""
            return text[:cut]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that `stop` begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
