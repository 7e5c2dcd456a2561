"""Engine options: from a table of a file, or a dict, to the engine's own frozen struct."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from sage_llm_ops.types.errors import ConfigError, UnknownName

Options = TypeVar("Options", bound=msgspec.Struct)


def parse_options(kind: type[Options], engine: str, given: dict[str, Any]) -> Options:
    """Raises `UnknownName` for an option nobody knows, `ConfigError` for one of a wrong type."""
    known = kind.__struct_fields__
    for name, value in given.items():
        if name == "models" and name not in known:  # not a slip of the pen for `model`
            raise ConfigError(
                f"models={value!r}: engine {engine!r} cannot share a worker between models, only "
                "'sim' can; register an instance for each"
            )
        if name not in known:
            raise UnknownName(f"option of engine {engine!r}", name, known)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"options of engine {engine!r}: {error}") from error
