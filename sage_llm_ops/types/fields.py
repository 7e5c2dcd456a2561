"""For dataclasses that callers fill from a dict: a wrong key is refused like any unknown name."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeVar

from sage_llm_ops.types.errors import UnknownName

T = TypeVar("T", bound=type[Any])


def refuse_unknown_fields(cls: T) -> T:
    """Make `cls(**keywords)` raise `UnknownName` with the nearest fields instead of `TypeError`.

    Stands above `@dataclass`, whose `__init__` it wraps: fields, signature and `replace` stay.
    """
    known = frozenset(field.name for field in dataclasses.fields(cls) if field.init)
    plain = cls.__init__

    @functools.wraps(plain)
    def __init__(self: Any, *args: Any, **fields: Any) -> None:
        if not fields.keys() <= known:
            wrong = next(name for name in fields if name not in known)
            raise UnknownName(f"field of {cls.__name__}", wrong, known, key=wrong)
        plain(self, *args, **fields)

    cls.__init__ = __init__
    return cls
