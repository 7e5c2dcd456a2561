"""What an operator is, and how it sits in a SAGE graph.

An operator says which events it `takes` and which it `emits`; the rest passes by (or, where
`passes` is a tuple, only those kinds do). It reads no clock, no random state, no thread and no
socket: everything it may depend on comes with the event or lives in the `Plane`.

SAGE builds every function object twice and an exception in one kills the source's thread, so the
operator is made once, by us, and SAGE gets a small guard that calls it: a raised error becomes a
`Broken` event about the request it happened to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec

from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.events import Broken, ConfigSet, Inner

if TYPE_CHECKING:
    from sage_llm_ops.operators.plane import Plane

log = logging.getLogger("sage_llm_ops.operators")

Emitted = Any
"""An event, a list of events, or None."""


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For operators that have none."""


class Operator:
    """Base of all operators."""

    name: ClassVar[str]
    shape: ClassVar[Literal["map", "flatmap", "sink"]] = "map"
    takes: ClassVar[dict[type[Any], str]]
    """Event type to the name of the method that handles it."""
    emits: ClassVar[tuple[type[Any], ...]] = ()
    passes: ClassVar[tuple[type[Any], ...] | None] = None
    """None: everything not taken goes on downstream. Else only these; a branch names what it wants."""
    Options: ClassVar[type[msgspec.Struct]] = NoOptions
    live: ClassVar[frozenset[str]] = frozenset()
    """Options that a ConfigSet event may change."""

    def __init__(self, plane: Plane, options: Any, identity: str) -> None:
        self.plane = plane
        self.options = options
        self.id = identity

    def handlers(self) -> dict[type[Any], Callable[[Any], Emitted]]:
        """Bound methods by event type."""
        found = {kind: getattr(self, method) for kind, method in self.takes.items()}
        if self.live:
            found[ConfigSet] = self.configure
        return found

    def configure(self, event: ConfigSet) -> Emitted:
        """Take a live option, in order with everything else."""
        if event.operator == self.id:
            self.options = msgspec.structs.replace(self.options, **{event.option: event.value})
        return event

    def failed(self, event: Any, error: Exception) -> Emitted:
        """What goes on instead when a handler raised. Never raises."""
        log.error("operator %s failed on %s", self.id, type(event).__name__, exc_info=error)
        self.plane.broken += 1
        if isinstance(event, Inner) and not isinstance(event, Broken):
            return Broken(event.seq, event.now, event.job, operator=self.id, error=error)
        return event

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where its own state contradicts itself."""


def read_options(
    kind: type[msgspec.Struct],
    given: dict[str, Any],
    *,
    owner: str,
    file: str | None = None,
    line: int | None = None,
    lines: Mapping[str, int] | None = None,
) -> Any:
    """Options as their type, or an error that names the key, the value and what is allowed."""
    known = {field.name for field in msgspec.structs.fields(kind)}
    for key in given:
        if key not in known:
            at = (lines or {}).get(key, line)
            raise UnknownName(f"option of {owner}", key, known, file=file, line=at, key=key)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        said = str(error)  # a type that does not fit ends so, a rule of ours begins so
        wrong = next(
            (n for n in given if said.endswith(f"`$.{n}`") or said.startswith((f"{n}=", f"{n}:"))),
            None,
        )
        at = (lines or {}).get(wrong or "", line)
        value = given if wrong is None else given[wrong]
        raise ConfigError(
            f"{owner}: {error} (given: {value!r})", file=file, line=at, key=wrong
        ) from None


def check_live(operator: Operator, option: str, value: Any) -> None:
    """Refuse a ConfigSet before it is posted."""
    if option not in operator.live:
        raise UnknownName(f"live option of {operator.id}", option, operator.live)
    changed = {**msgspec.structs.asdict(operator.options), option: value}
    read_options(type(operator.options), changed, owner=operator.id)
