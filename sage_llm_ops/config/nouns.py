"""What a dataclass says about itself: its fields are the schema of the table that it is read from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import UnionType
from typing import Any, get_args, get_type_hints

from sage_llm_ops.config.overrides import Shape


def hints_of(noun: type, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The types of its fields, or of some of them, in order."""
    hints = get_type_hints(noun)
    names = [spec.name for spec in dataclasses.fields(noun)] if only is None else only
    return {name: hints[name] for name in names}


def nested_dataclass(hint: Any) -> type | None:
    """The dataclass in `D | None`."""
    for option in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def shape_of(noun: type, only: Iterable[str] | None = None) -> Shape:
    """What a variable can name in a table of this dataclass."""
    tables: dict[str, Shape] = {}
    values = set()
    for name, hint in hints_of(noun, only).items():
        nested = nested_dataclass(hint)
        if nested is not None:
            tables[name] = shape_of(nested)
        elif getattr(hint, "__origin__", None) is dict:
            tables[name] = Shape(is_open=True)
        else:
            values.add(name)
    return Shape(tables, frozenset(values))
