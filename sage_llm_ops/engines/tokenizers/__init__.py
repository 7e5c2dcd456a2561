"""Text to token ids and back on the caller's side, without importing an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_llm_ops.engines.base import Tokenizer
from sage_llm_ops.engines.tokenizers.bytes import ByteTokenizer
from sage_llm_ops.types.errors import ConfigError, UnknownName

__all__ = ["ByteTokenizer", "tokenizer_for"]

KINDS = ("bytes", "hf")


def tokenizer_for(engine: str, model: str, options: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer an engine uses for a model.

    `options` are the instance's: `tokenizer` names another directory or hub model, `model` where
    the weights are if that differs from the served name. The simulated engine reads bytes.
    """
    options = options or {}
    kind = options.get("tokenizer_kind") or ("bytes" if engine == "sim" else "hf")
    if kind == "bytes":
        return ByteTokenizer()
    if kind != "hf":
        raise UnknownName("tokenizer kind", kind, KINDS)
    source = str(options.get("tokenizer") or options.get("model") or model)
    if not source:
        raise ConfigError(f"engine {engine!r} needs a model name to find its tokenizer")
    from sage_llm_ops.engines.tokenizers.hf import HfTokenizer

    return HfTokenizer(source)
