"""Text to token ids and back on the caller's side, without importing an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sage_llm_ops.engines.base import Tokenizer
from sage_llm_ops.engines.tokenizers.bytes import ByteTokenizer
from sage_llm_ops.engines.tokenizers.text import TextTokenizer, estimate
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.registry import Registry

__all__ = ["TOKENIZERS", "ByteTokenizer", "TextTokenizer", "estimate", "tokenizer_for"]

TOKENIZERS: Registry[Any] = Registry(
    "tokenizer kind",
    "tokenizers",
    object,  # `Tokenizer` is a protocol: it is implemented, not inherited
    {"bytes": ByteTokenizer, "hf": "sage_llm_ops.engines.tokenizers.hf:HfTokenizer"},
)
"""Kinds by name, plug-ins among them. Each is made with where the tokenizer's files are."""


def tokenizer_for(engine: str, model: str, options: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer an engine uses for a model.

    `options` are the instance's: `tokenizer` names another directory or hub model, `model` where
    the weights are if that differs from the served name, `tokenizer_kind` another kind than the
    engine's own. Of a server reached over HTTP only the name of its model is known: without one of
    the first and the last its text is taken as text.
    """
    options = options or {}
    kind = options.get("tokenizer_kind")
    if engine == "http" and not kind:
        if not options.get("tokenizer"):
            return TextTokenizer()
        kind = "hf"
    kind = kind or _kind_of(engine)
    found = TOKENIZERS.resolve(kind)
    source = str(options.get("tokenizer") or options.get("model") or model)
    if kind == "hf" and not source:
        raise ConfigError(f"engine {engine!r} needs a model name to find its tokenizer")
    made: Tokenizer = found(source)
    return made


def _kind_of(engine: str) -> str:
    from sage_llm_ops.engines.registry import engine_class

    return engine_class(engine).tokenizer_kind
