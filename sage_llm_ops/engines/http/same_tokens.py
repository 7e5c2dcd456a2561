"""Whether a server reads text as we do: ids of another vocabulary are accepted, and mean nonsense."""

from __future__ import annotations

from functools import lru_cache

from sage_llm_ops.engines.base import Tokenizer
from sage_llm_ops.engines.http.options import HttpOptions
from sage_llm_ops.engines.tokenizers import TextTokenizer, tokenizer_for
from sage_llm_ops.engines.tokenizers.files import tokenizer_hash
from sage_llm_ops.types.errors import ConfigError

SAMPLE = "The quick brown fox, 42 naïve 狐狸 and one 🦊:\n\tif (jumps) { return 'over'; }"
"""Words, digits, scripts, white space and signs, on which vocabularies differ."""


def check_hash(identity: str, model: str, options: HttpOptions, planes: str) -> None:
    """Refuse an instance whose tokenizer is not the plane's for this model, if that is known."""
    if planes and own_hash(options) != planes:
        raise ConfigError(
            f"instance {identity!r}: another instance serves model {model!r} with another tokenizer, "
            "or as text; give all of them the same option tokenizer (a server may go without: then "
            "all must), or this one another model_name"
        )


def own_hash(options: HttpOptions) -> str:
    """Of the tokenizer that the options name."""
    if not options.as_tokens:
        return TextTokenizer.hash
    if options.tokenizer_kind in ("", "hf"):  # without loading it
        return tokenizer_hash(options.tokenizer or options.model)
    return _made(options.tokenizer, options.tokenizer_kind, options.model).hash


def sample_ids(options: HttpOptions) -> tuple[int, ...]:
    """How the options' tokenizer reads the sample."""
    return _ids(options.tokenizer, options.tokenizer_kind, options.model)


@lru_cache(maxsize=16)
def _ids(tokenizer: str, kind: str, model: str) -> tuple[int, ...]:
    return tuple(_made(tokenizer, kind, model).encode(SAMPLE))


def _made(tokenizer: str, kind: str, model: str) -> Tokenizer:
    return tokenizer_for("http", model, {"tokenizer": tokenizer, "tokenizer_kind": kind})
