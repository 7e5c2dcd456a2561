"""Environment variables that override a file: `SAGE_LLM_OPS__PIPELINE__MAX_IN_FLIGHT=500`.

`__` separates the parts of a path, in any case. What a shell does not allow in a variable's name
(the hyphens of `llm-prefill-1`) is written as `_`. Elements of an array of tables are named by
their id, not by their index. The value is read as a TOML value, and as a plain string where it is
none. `SAGE_LLM_OPS_DATA` and its like (one underscore) are no overrides.

An override changes or adds a key of something that the file has; a whole table is not replaced.
"""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource, dotted
from sage_llm_ops.types.errors import ConfigError, UnknownName

PREFIX = "SAGE_LLM_OPS__"
ROOTS = ("default_engine", "services", "pipeline", "operators", "instances", "simulate")
"""First parts that mean something to one of the loaders."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Which paths a document can have below one place, for finding what a variable means."""

    tables: Mapping[str, Shape] = field(default_factory=dict)
    """Keys that hold tables or arrays of tables."""
    values: frozenset[str] = frozenset()
    """Keys that hold a plain value."""
    is_open: bool = False
    """Any other key may be given too, in lower case."""
    row_ids: tuple[str, ...] = ()
    """For an array of tables: the keys that name an element, the first that is given."""
    each: Shape | None = None
    """For a table whose keys are the user's: what stands under each of them."""


def override(source: TomlSource, shape: Shape, environ: Mapping[str, str]) -> TomlSource:
    """The source as the variables change it; every refusal names the variable.

    Variables that belong to another kind of file (by their first part) are left alone; a first
    part that is nobody's is refused.
    """
    data = copy.deepcopy(source.data)
    variables: dict[Path, str] = {}
    for variable, rest in sorted(_ours(environ)):
        root = rest.split("__")[0]
        if root not in shape.tables:
            continue
        path = _find(data, shape, rest, variable)
        if path in variables:
            raise ConfigError(
                f"sets the same as {variables[path]}; unset one of them",
                file=variable,
                key=dotted(path),
            )
        _assign(data, path, value_of(environ[variable]))
        variables[path] = variable
    lines = {
        path: line
        for path, line in source.lines.items()
        if not any(path[: len(changed)] == changed for changed in variables)
    }
    return replace(source, data=data, lines=lines, variables=variables)


def setting(name: str, environ: Mapping[str, str]) -> tuple[str, Any] | None:
    """The variable and the value of a setting outside of any file, such as `default_engine`."""
    found = [variable for variable, rest in sorted(_ours(environ)) if rest == name]
    if len(found) > 1:
        raise ConfigError(f"sets the same as {found[0]}; unset one of them", file=found[1])
    return (found[0], value_of(environ[found[0]])) if found else None


def value_of(text: str) -> Any:
    """What a variable's text means: a TOML value, else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # A line break in the text could have started a second key: then it was no value.
    return parsed["value"] if len(parsed) == 1 else text


def _ours(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Our variables, with what follows the prefix."""
    for variable in environ:
        if not variable.upper().startswith(PREFIX):
            continue
        rest = variable[len(PREFIX) :].lower()
        root, _, below = rest.partition("__")
        if root not in ROOTS or (root == "default_engine" and below):
            raise UnknownName("override", root if not below else rest, ROOTS, file=variable)
        yield variable, rest


def _find(data: Any, shape: Shape, rest: str, variable: str) -> Path:
    """The path that `rest` names, from what the document holds and what it could hold."""
    path: Path = ()
    while True:
        steps = _steps(data, shape)
        matches = [name for name in steps if rest == name or rest.startswith(f"{name}__")]
        if not matches:
            break
        # Names may hold `__` themselves: the longest is meant.
        name = max(matches, key=len)
        keys = steps[name]
        if len(keys) > 1:
            raise ConfigError(
                f"{name!r} can mean {' or '.join(repr(key) for key, _, _ in keys)}; rename one",
                file=variable,
                key=dotted(path),
            )
        key, data, below = keys[0]
        path, rest = (*path, key), rest[len(name) + 2 :]
        if below is None and not rest:
            return path
        if below is None or not rest:
            holds = "one value" if below is None else "a table: name one of its keys"
            raise ConfigError(f"this is {holds}", file=variable, key=dotted(path))
        shape = below
    if shape.is_open:
        return (*path, rest)
    raise UnknownName("override", rest.split("__")[0], steps, file=variable, key=dotted(path))


Step = tuple[str | int, Any, Shape | None]


def _steps(data: Any, shape: Shape) -> dict[str, list[Step]]:
    """From each name a variable can give here to the keys it can mean."""
    steps: dict[str, list[Step]] = {}

    def step(name: object, key: str | int, value: Any, below: Shape | None) -> None:
        steps.setdefault(re.sub(r"\W", "_", str(name)).lower(), []).append((key, value, below))

    if shape.row_ids:
        for index, row in enumerate(data if isinstance(data, list) else ()):
            if isinstance(row, dict) and shape.each is not None:
                name = next((row[key] for key in shape.row_ids if key in row), index)
                step(name, index, row, shape.each)
        return steps
    table = data if isinstance(data, dict) else {}
    for key in sorted({*table, *shape.tables, *shape.values}):
        value = table.get(key)
        if key in shape.tables:
            step(key, key, value, shape.tables[key])
        elif key in shape.values:
            step(key, key, value, None)
        elif shape.each is not None and isinstance(value, dict):
            step(key, key, value, shape.each)
        elif shape.is_open:
            below = Shape(is_open=True) if isinstance(value, dict) else None
            step(key, key, value, below)
    return steps


def _assign(data: Any, path: Path, value: Any) -> None:
    *parents, last = path
    for key in parents:
        if isinstance(data, dict):
            data = data.setdefault(key, {})
        elif isinstance(data, list) and isinstance(key, int):
            data = data[key]
    # A file with something else than a table here is refused for that, after the overrides.
    if isinstance(data, dict):
        data[last] = value
