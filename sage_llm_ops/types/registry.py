"""Names and the classes behind them: ours, and those of installed packages.

A package adds a name by an entry point (`docs/plugins.md`):

    [project.entry-points."sage_llm_ops.routings"]
    sticky_tenant = "my_package.sticky_tenant:StickyTenant"

Looking a name up reads the metadata of installed packages; a package is imported when one of its
names is used, never before.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from sage_llm_ops.types.errors import PluginError, UnknownName

T = TypeVar("T")

Points = dict[str, list[metadata.EntryPoint]]


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes by name. A built-in one may stand here as `module:Class`, to be imported when used."""

    def __init__(
        self, kind: str, group: str, base: type[Any], built_in: Mapping[str, type[T] | str]
    ) -> None:
        self.kind, self.group = kind, f"sage_llm_ops.{group}"
        self.built_in = dict(built_in)
        self._base = base
        self._used: dict[str, type[T]] = {}
        self._points: Points | None = None
        """What is installed, by name. Reading it takes 10 ms, so it is done once, and again where a
        name is missing: that may have been installed since."""

    def resolve(
        self,
        name: str,
        *also: str,
        file: str | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> type[T]:
        """The class, or `UnknownName` (which lists `also` too) or `PluginError` with the place."""
        if name not in self:
            known = [*self, *also]
            raise UnknownName(self.kind, name, known, file=file, line=line, key=key)
        try:
            return self[name]
        except PluginError as error:
            error.at(file=file, line=line, key=key)
            raise

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._used:
            self._used[name] = self._load(name)
        return self._used[name]

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self._plugins() or name in self._plugins(anew=True)

    def __iter__(self) -> Iterator[str]:
        return iter({**self.built_in, **self._plugins(anew=True)})

    def __len__(self) -> int:
        return sum(1 for _ in self)  # not a list: that would ask for the length first

    def origin(self, name: str) -> str:
        """The package that brings a name; empty for ours."""
        found = self._plugins().get(name)
        return _package(found[0]) if found else ""

    def _load(self, name: str) -> type[T]:
        ours, points = self.built_in.get(name), self._plugins().get(name, [])
        if ours is not None and points:
            raise PluginError(
                f"package {_package(points[0])!r} registers {self.kind} {name!r}, which is built in; "
                "give its entry point another name, or uninstall it"
            )
        if len(points) > 1:
            both = " and ".join(sorted(repr(_package(point)) for point in points))
            raise PluginError(
                f"{self.kind} {name!r} is registered by {both}; uninstall one of them"
            )
        if ours is not None:
            return _imported(ours) if isinstance(ours, str) else ours
        if not points:
            raise KeyError(name)
        return self._checked(name, points[0])

    def _checked(self, name: str, point: metadata.EntryPoint) -> type[T]:
        said = f"{self.kind} {name!r} of package {_package(point)!r} ({point.value})"
        try:
            found = point.load()
        except Exception as error:  # whatever a foreign module raises while it is imported
            cause = f"{type(error).__name__}: {error}"
            raise PluginError(f"{said} cannot be imported: {cause}") from error
        if not (isinstance(found, type) and issubclass(found, self._base)):
            raise PluginError(f"{said} is no subclass of {self._base.__name__}")
        own = getattr(found, "name", None)
        if own != name:
            raise PluginError(
                f"{said} calls itself {own!r}: set `name = {name!r}` in the class, it is the name "
                "that ledgers and errors show"
            )
        return found

    def _plugins(self, *, anew: bool = False) -> Points:
        if anew or self._points is None:
            found: Points = {}
            for point in metadata.entry_points(group=self.group):
                found.setdefault(point.name, []).append(point)
            self._points = found
        return self._points


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"
