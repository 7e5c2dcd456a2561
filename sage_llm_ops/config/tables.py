"""From a table of a file to a dataclass, strictly.

Pydantic checks names and types (`schema.py`); ranges and rules between fields are the dataclass's
own, so that a program that constructs it is held to the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from sage_llm_ops.config.nouns import hints_of, nested_dataclass
from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource
from sage_llm_ops.types.errors import ConfigError

T = TypeVar("T")

Known = Mapping[str, Collection[str]]
"""Per setting (`routing_strategy`, `engine`, ...) the names that somebody registered."""


def table_at(source: TomlSource, path: Path, value: object) -> dict[str, Any]:
    """The value, if it is a table."""
    if not isinstance(value, dict):
        raise source.error(path, f"{value!r} must be a table")
    return value


def rows_at(source: TomlSource, path: Path, value: object) -> list[tuple[Path, dict[str, Any]]]:
    """The elements of an array of tables, each with its path."""
    if not isinstance(value, list):
        header = ".".join(str(part) for part in path)
        raise source.error(path, f"{value!r} must be an array of tables: [[{header}]]")
    return [((*path, i), table_at(source, (*path, i), row)) for i, row in enumerate(value)]


def read_fields(
    source: TomlSource,
    path: Path,
    table: dict[str, Any],
    noun: type,
    only: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """What the table gives of the fields of `noun`, or of `only` some; other keys are refused."""
    from sage_llm_ops.config.schema import checked  # pydantic: half of this room's import time

    return checked(source, path, table, noun, only)


def read_table(source: TomlSource, path: Path, table: dict[str, Any], noun: type[T]) -> T:
    """An instance of `noun`; what the table leaves out has its default."""
    fields = read_fields(source, path, table, noun)
    with located(source, path):
        return _build(noun, fields)


@contextmanager
def located(source: TomlSource, path: Path) -> Iterator[None]:
    """Give the place in the table at `path` to what a dataclass refuses by its field's name alone."""
    try:
        yield
    except ConfigError as error:
        place = path if error.key is None else (*path, error.key)
        raise error.at(**source.where(place)) from None


def check_known(
    source: TomlSource, path: Path, table: Mapping[str, Any], known: Known | None
) -> None:
    """Refuse names that `known` does not list; without `known`, whoever uses a name checks it."""
    for setting, names in (known or {}).items():
        value = table.get(setting)
        if value is not None and value not in names:
            raise source.unknown((*path, setting), setting.replace("_", " "), value, names)


def _build(noun: type[T], fields: Mapping[str, Any]) -> T:
    """Tables within the table become dataclasses too."""
    hints = hints_of(noun)
    values = dict(fields)
    for name, value in fields.items():
        nested = nested_dataclass(hints[name])
        if nested is not None:
            values[name] = _build(nested, value)
    return noun(**values)
