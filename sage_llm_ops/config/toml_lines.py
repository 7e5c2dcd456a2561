"""On which line of a TOML text each key and each array element stands.

`tomllib` forgets the lines, and the parsers that keep them (tomlkit, toml-rs bindings) are a
dependency for one number. This scanner reads only text that `tomllib` has already accepted, so it
checks nothing: it follows the structure and skips the values.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]
"""A place in a TOML document: keys, and indices into arrays."""

_BLANK = re.compile(r"[ \t]*")
_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\r\n#]*")
_BASIC = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL = re.compile(r"'[^']*'")
# A closing delimiter may be preceded by one or two quotes that belong to the string.
_LONG_BASIC = re.compile(r'"""(?:[^\\]|\\.)*?"""(?:""|"(?!"))?', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''.*?'''(?:''|'(?!'))?", re.DOTALL)


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every key path of a text that `tomllib.loads` accepts."""
    return _Scanner(text).run()


class _Scanner:
    """One pass over one text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {}
        self._newlines = [i for i, char in enumerate(text) if char == "\n"]
        self._rows: dict[Path, int] = {}
        """Elements so far of each array of tables."""

    def run(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(_GAP)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._assignment(table)
            self._skip(_GAP)
        return self.lines

    def _header(self) -> Path:
        line = self._line()
        is_row = self.text.startswith("[[", self.at)
        self.at += 2 if is_row else 1
        *parents, last = self._key()
        self.at += 2 if is_row else 1
        path: Path = ()
        for part in parents:
            path = self._newest((*path, part))
            self.lines.setdefault(path, line)
        path = (*path, last)
        if is_row:
            self.lines.setdefault(path, line)
            self._rows[path] = self._rows.get(path, -1) + 1
            path = (*path, self._rows[path])
        # Stated outright: this beats the line where a sub-table implied it.
        self.lines[path] = line
        return path

    def _newest(self, path: Path) -> Path:
        """Where a header's path leads: into the latest element of an array of tables."""
        return (*path, self._rows[path]) if path in self._rows else path

    def _assignment(self, table: Path) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self.lines.setdefault(path, line)
        self.at += 1  # the equals sign
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[str]:
        """A key with its dots; stops on what follows it."""
        parts = []
        while True:
            self._skip(_BLANK)
            parts.append(self._key_part())
            self._skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _key_part(self) -> str:
        first = self.text[self.at]
        if first == '"':
            quoted = self._skip(_BASIC)
            return str(tomllib.loads(f"key = {quoted}")["key"])
        if first == "'":
            return self._skip(_LITERAL)[1:-1]
        return self._skip(_BARE_KEY)

    def _value(self, path: Path) -> None:
        text, at = self.text, self.at
        if text.startswith('"""', at):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", at):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', at):
            self._skip(_BASIC)
        elif text.startswith("'", at):
            self._skip(_LITERAL)
        elif text.startswith("[", at):
            self._array(path)
        elif text.startswith("{", at):
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self.at += 1
        index = 0
        while not self._closed("]"):
            element = (*path, index)
            self.lines[element] = self._line()
            self._value(element)
            index += 1

    def _inline_table(self, path: Path) -> None:
        self.at += 1
        while not self._closed("}"):
            self._assignment(path)

    def _closed(self, end: str) -> bool:
        """Step over a gap and a comma; True once `end` was stepped over too."""
        self._skip(_GAP)
        if self.text[self.at] == ",":
            self.at += 1
            self._skip(_GAP)
        if self.text[self.at] != end:
            return False
        self.at += 1
        return True

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self.at)
        if found is None:
            raise ValueError(f"not the TOML that tomllib accepted, at offset {self.at}")
        self.at = found.end()
        return found.group()

    def _line(self) -> int:
        return bisect_right(self._newlines, self.at) + 1
