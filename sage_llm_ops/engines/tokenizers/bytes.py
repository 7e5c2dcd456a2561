"""UTF-8 bytes as tokens: for engines that simulate."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from sage_llm_ops.types.errors import InvalidRequest


class ByteTokenizer:
    """Ids 0-255 are bytes. Higher ids, which a simulation may make up, are no text."""

    hash = "utf-8-bytes-1"

    def __init__(self, source: str = "") -> None:
        """Bytes need no files: `source` is what every kind of tokenizer is made with."""

    def encode(self, text: str) -> bytes:
        """A sequence of ids as it is: a list of 8,000 numbers would take longer to make and to read
        than everything else that happens to a request."""
        return text.encode()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        return _bytes(ids).decode(errors="replace")

    def chat(self, messages: Sequence[dict[str, Any]]) -> bytes:
        try:
            turns = [f"<|{message['role']}|>{message['content']}\n" for message in messages]
        except KeyError as error:
            raise InvalidRequest(
                f"a message has no {error}; give every one role and content"
            ) from None
        return self.encode("".join(turns) + "<|assistant|>")

    def decoder(self, *, skip_special_tokens: bool = True) -> ByteDecoder:
        return ByteDecoder()


class ByteDecoder:
    """Implements `TextDecoder`."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        return self._decoder.decode(_bytes(ids))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


def _bytes(ids: Sequence[int]) -> bytes:
    return bytes(token for token in ids if 0 <= token < 256)
