"""Request bodies: JSON to structs, and refusals that name the field and its value."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from sage_llm_ops.service.gateway.errors import HttpError
from sage_llm_ops.types.errors import UnknownName

T = TypeVar("T")

_PLACE = re.compile(r"^(.*) - at `\$\.?(.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(.*)`$", re.DOTALL)
_SHOWN = 80


def read_body(kind: type[T], decode: Callable[[bytes], T], body: bytes) -> T:
    """The struct, or 400 that names the field, what it was and what it must be."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(kind, str(error), body) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HttpError(400, f"the body is not JSON: {error}", code="bad_json") from None
    except RecursionError:
        raise HttpError(400, "the body is nested too deeply", code="bad_json") from None


def _refusal(kind: type, said: str, body: bytes) -> HttpError:
    found = _PLACE.match(said)
    message, path = (found[1], found[2]) if found else (said, "")
    unknown = _UNKNOWN.match(message)
    if unknown is not None:
        name = unknown[1]
        known = [] if path else [f.name for f in msgspec.structs.fields(kind)]
        where = f"{path}.{name}" if path else name
        sentence = f"{where} is not known here"
        if known:
            sentence = str(UnknownName("parameter", name, known))
        return HttpError(400, sentence, code="unknown_parameter", param=where)
    message = message[:1].lower() + message[1:]
    if not path:
        return HttpError(400, f"the body: {message}", code="invalid_value")
    value = _value_at(body, path)
    return HttpError(400, f"{path}={value}: {message}", code="invalid_value", param=path)


def _value_at(body: bytes, path: str) -> str:
    """What stands at a path of the body, in JSON, cut short."""
    try:
        value: Any = msgspec.json.decode(body)
        for part in re.findall(r"[^.\[\]]+", path):
            value = value[int(part)] if isinstance(value, list) else value[part]
        text = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, ValueError, LookupError, TypeError):
        return "..."
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
