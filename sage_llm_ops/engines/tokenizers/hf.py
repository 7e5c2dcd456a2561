"""A model's own tokenizer through the light `tokenizers` package.

Not transformers' AutoTokenizer: its import costs seconds and, with torch, hundreds of megabytes in
the control plane, for the same ids (a test compares them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from sage_llm_ops.engines.tokenizers.files import tokenizer_directory
from sage_llm_ops.engines.tokenizers.template import ChatTemplate
from sage_llm_ops.types.errors import CapabilityError


class HfTokenizer:
    """Implements `Tokenizer` over a model directory or hub name. Safe to share between threads."""

    def __init__(self, source: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise CapabilityError(
                "reading a model's tokenizer needs `tokenizers` and `jinja2`: "
                "pip install 'sage-llm-ops[vllm]'"
            ) from None
        directory = tokenizer_directory(source)
        data = (directory / "tokenizer.json").read_bytes()
        self.hash = hashlib.sha256(data).hexdigest()
        self._tokenizer: Any = Tokenizer.from_buffer(data)
        # A saved file may carry settings of its training run, which transformers resets too.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = ChatTemplate(directory)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        text = self._template.render(messages)
        # The template writes the special tokens itself.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decoder(self, *, skip_special_tokens: bool = True) -> HfDecoder:
        return HfDecoder(self._tokenizer, skip_special_tokens)


class HfDecoder:
    """Implements `TextDecoder`: what was pushed, decoded, is the whole decoded at once.

    The window of ids that is decoded again with each push starts where text last ended cleanly, one
    push earlier: decoders that treat a sequence's first token differently need that context. A
    trailing U+FFFD may be the first half of a character and is held back.

    Refused: `tokenizers.DecodeStream`, which has no flush, so that an answer cut off inside a
    character loses its end.
    """

    def __init__(self, tokenizer: Any, skip_special_tokens: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._window: list[int] = []
        self._context = 0
        """How many ids at the window's start were clean text before the last push."""
        self._shown = 0
        """Characters of the window's text that were handed out."""

    def push(self, ids: Sequence[int]) -> str:
        self._window.extend(ids)
        text = self._decode(self._window)
        certain = len(text.rstrip("\ufffd"))
        new = text[self._shown : certain]
        if certain < len(text):
            self._shown = max(self._shown, certain)
            return new
        # Clean: the next window keeps this push's ids as its context and no more.
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._shown = len(self._decode(self._window))
        return new

    def flush(self) -> str:
        rest = self._decode(self._window)[self._shown :]
        self._window, self._context, self._shown = [], 0, 0
        return rest

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=self._skip)
        return text
