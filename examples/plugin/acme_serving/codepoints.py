"""A tokenizer: one Unicode character, one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Codepoints:
    """`source` is where the model's files are; this one needs none."""

    name = "codepoints"
    hash = "codepoints-1"

    def __init__(self, source: str) -> None: ...

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return "".join(map(chr, ids))

    def chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        return self.encode("".join(f"{turn['role']}: {turn['content']}\n" for turn in messages))

    def decoder(self, *, skip_special_tokens: bool = True) -> Decoder:
        return Decoder()


class Decoder:
    """A character is never half here, so nothing is held back."""

    def push(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def flush(self) -> str:
        return ""
