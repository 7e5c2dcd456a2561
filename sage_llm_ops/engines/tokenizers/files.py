"""Where a model's tokenizer files are: a directory, or the hub's cache, or the hub."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sage_llm_ops.types.errors import ConfigError

PATTERNS = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"]


def tokenizer_directory(source: str) -> Path:
    """Raises `ConfigError` where there is no tokenizer.json to be had."""
    path = Path(source).expanduser()
    if not path.is_dir():
        path = _from_hub(source)
    if not (path / "tokenizer.json").is_file():
        raise ConfigError(
            f"model {source!r}: no tokenizer.json in {path}; only fast tokenizers are read: "
            "convert it with transformers' `save_pretrained`, or set the option `tokenizer`"
        )
    return path


def tokenizer_hash(source: str) -> str:
    """Identity of a tokenizer: of its file's bytes."""
    file = tokenizer_directory(source) / "tokenizer.json"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _from_hub(source: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ConfigError(
            f"model {source!r} is no directory, and huggingface_hub is not installed to look it up"
        ) from None
    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS, local_files_only=True))
    except Exception:
        pass  # not in the cache: perhaps a hub can be reached
    try:
        return Path(snapshot_download(source, allow_patterns=PATTERNS))
    except Exception as error:
        raise ConfigError(
            f"model {source!r} is no directory, not in the local hub cache and cannot be fetched "
            f"({type(error).__name__}): give the path of a model directory"
        ) from error
