"""Strict pydantic models, made from dataclasses so that no field is declared twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails

from sage_llm_ops.config.nouns import hints_of, nested_dataclass
from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource
from sage_llm_ops.types.errors import ConfigError

_STRICT = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def checked(
    source: TomlSource,
    path: Path,
    table: dict[str, Any],
    noun: type,
    only: tuple[str, ...] | None,
) -> dict[str, Any]:
    """The keys that the table gives, checked for names and types."""
    model = model_of(noun, only)
    try:
        return model.model_validate(table).model_dump(exclude_unset=True)
    except ValidationError as error:
        # What is there and wrong explains what is missing (`nme` for `name`), so it comes first.
        first = min(error.errors(), key=lambda detail: detail["type"] == "missing")
        raise _refusal(source, path, first, model) from None


@cache
def model_of(noun: type, only: tuple[str, ...] | None = None) -> type[BaseModel]:
    """A model with the dataclass's fields. It checks; the dataclass is built from what was set."""
    specs = {spec.name: spec for spec in dataclasses.fields(noun)}
    fields: dict[str, Any] = {}
    for name, hint in hints_of(noun, only).items():
        spec = specs[name]
        required = (
            spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        )
        fields[name] = (_in_toml(hint), ... if required else None)
    model: type[BaseModel] = create_model(f"{noun.__name__}Table", __config__=_STRICT, **fields)
    return model


def _refusal(
    source: TomlSource, path: Path, detail: ErrorDetails, model: type[BaseModel]
) -> ConfigError:
    """A complaint of pydantic's in our words, with its place."""
    loc = detail["loc"]
    place = (*path, *loc)
    if detail["type"] == "extra_forbidden":
        return source.unknown(place, "key", loc[-1], _keys_at(model, loc[:-1]))
    if detail["type"] == "missing":
        return source.error(place[:-1], f"`{loc[-1]}` is required")
    message = f"{detail['input']!r} {detail['msg'].replace('Input should', 'must')}"
    variable = source.variable(place)
    if variable is not None and detail["type"] == "string_type":
        message += f"; for the string write {variable}='\"{detail['input']}\"'"
    return source.error(place, message)


def _keys_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """The keys that the table at `path` below the model can have."""
    for part in path:
        hint = model.model_fields[str(part)].annotation
        model = next(o for o in _options(hint) if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)


def _in_toml(hint: Any) -> Any:
    """The type as TOML can say it."""
    nested = nested_dataclass(hint)
    if nested is not None:
        return model_of(nested) | None
    if any(isinstance(option, type) and issubclass(option, Enum) for option in _options(hint)):
        return str  # the dataclass knows which names there are, and says so
    if tuple[str, ...] in _options(hint):
        return list[str]
    return hint


def _options(hint: Any) -> Iterator[Any]:
    yield from get_args(hint) if isinstance(hint, UnionType) else (hint,)
