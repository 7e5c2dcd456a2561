"""Where nobody here has the model's tokenizer: text travels as text, and counts are estimates."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.engines.tokenizers.bytes import ByteTokenizer

BYTES_PER_TOKEN = 4
"""Of English text under the tokenizers of today's models; other languages have fewer."""


def estimate(size: int) -> int:
    """About how many tokens so many bytes of text are."""
    return -(-size // BYTES_PER_TOKEN)


class TextTokenizer(ByteTokenizer):
    """The server tokenises. What it answers is text, and travels as the bytes of that text: one
    shape of stream for every engine, and decoding gives back exactly what came.

    Prompts are not encoded with it: they travel as they were written (`Request.untokenised`).
    """

    hash = "text-of-a-server-1"
    """Of its own: a model that one instance serves as tokens and another as text has two streams
    that cannot be continued one by the other, so such a fleet is refused."""

    def estimate(self, written: str | list[dict[str, Any]]) -> int:
        """About how many tokens a prompt, or a conversation, is."""
        text = written.encode() if isinstance(written, str) else msgspec.json.encode(written)
        return estimate(len(text))
