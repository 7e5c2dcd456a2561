"""Writes what `tomllib` reads; the standard library has no writer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

from sage_llm_ops.types.errors import ConfigError

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f]')


def assignments(table: Mapping[str, Any], place: str) -> list[str]:
    """A line `key = value` per entry. `place` names the table where a value cannot be written."""
    return [f"{key_text(key)} = {value_text(v, f'{place}.{key}')}" for key, v in table.items()]


def key_text(key: str) -> str:
    """A key, quoted where it must be."""
    return key if _BARE.fullmatch(key) else _string(key, key)


def value_text(value: object, place: str) -> str:
    """A value on one line. What TOML has no form for is refused, None above all: leave it out."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _string(value, place)
        case int():
            return str(int(value))
        case float():
            return repr(float(value))
        case datetime() | date() | time():
            return value.isoformat()
        case Mapping():
            items = ", ".join(assignments(value, place))
            return f"{{ {items} }}" if items else "{}"
        case Sequence() if not isinstance(value, bytes | bytearray):
            return f"[{', '.join(value_text(v, f'{place}[{i}]') for i, v in enumerate(value))}]"
    raise ConfigError(f"{value!r} ({type(value).__name__}) cannot be written in TOML", key=place)


def _string(value: str, place: str) -> str:
    text = str.__str__(value)  # an enum's own __str__ may say something else
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{text!r} holds half a surrogate pair: not Unicode", key=place) from None
    escaped = _SPECIAL.sub(lambda m: _ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", text)
    return f'"{escaped}"'
