"""One TOML file, read, that remembers where every value was written.

Everything the loaders refuse is raised through `TomlSource.error` and `.unknown`, so each refusal
names the file and line, or the environment variable that overrode the file.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from sage_llm_ops.config.toml_lines import Path, key_lines
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.pipelines import Where


@dataclass(frozen=True, slots=True)
class TomlSource:
    """What a file says and where it says it."""

    file: str
    data: dict[str, Any]
    lines: Mapping[Path, int]
    variables: Mapping[Path, str] = field(default_factory=dict)
    """The environment variable that set a path instead of the file."""

    def line(self, path: Path) -> int | None:
        """The line of a path, or of the nearest thing around it that is written down."""
        return next((self.lines[p] for p in _outwards(path) if p in self.lines), None)

    def variable(self, path: Path) -> str | None:
        """The environment variable that set this path or a value around it."""
        return next((self.variables[p] for p in _outwards(path) if p in self.variables), None)

    def where(self, path: Path) -> Where:
        """File and line, or the variable in place of both."""
        variable = self.variable(path)
        if variable is not None:
            return Where(file=variable, line=None, key=dotted(path))
        return Where(file=self.file, line=self.line(path), key=dotted(path))

    def error(self, path: Path, message: str) -> ConfigError:
        """What is said at `path` cannot be obeyed."""
        return ConfigError(message, **self.where(path))

    def unknown(self, path: Path, kind: str, name: object, known: Iterable[str]) -> UnknownName:
        """The name said at `path` is nobody's."""
        return UnknownName(kind, name, known, **self.where(path))


def read_toml(path: str | os.PathLike[str]) -> TomlSource:
    """Read a file; whatever is wrong with it is a `ConfigError`."""
    file = os.fspath(path)
    try:
        raw = FilePath(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot be read: {reason}", file=file) from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"byte {raw[error.start]:#04x} is not UTF-8, which TOML is written in",
            file=file,
            line=line,
        ) from None
    return parse_toml(text, file)


def parse_toml(text: str, file: str) -> TomlSource:
    """Parse a text; `file` is only a name for errors."""
    try:
        data = tomllib.loads(text)
        lines = key_lines(text)
    except RecursionError:
        raise ConfigError("arrays or inline tables are nested too deeply", file=file) from None
    except ValueError as error:  # also an integer of more digits than Python converts
        raise _syntax_error(error, file) from None
    return TomlSource(file, data, lines)


def dotted(path: Path) -> str | None:
    """A path as people write it: `services.llm.instances[0].port`; None for the whole document."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or None


def _outwards(path: Path) -> Iterable[Path]:
    return (path[:length] for length in range(len(path), 0, -1))


def _syntax_error(error: ValueError, file: str) -> ConfigError:
    text = str(error)
    place = re.search(r" \(at line (\d+), column (\d+)\)$", text)
    if place is None:
        return ConfigError(f"not TOML: {text}", file=file)
    message = f"not TOML: {text[: place.start()]} (column {place[2]})"
    return ConfigError(message, file=file, line=int(place[1]))
