"""Settings that belong to no file."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Collection, Mapping

from sage_llm_ops.config.overrides import PREFIX, setting
from sage_llm_ops.types.errors import ConfigError, UnknownName

REAL_ENGINES = ("vllm", "lmdeploy")
"""Engines that are packages of their own; `sim` is always there."""


def importable(package: str) -> bool:
    """Whether a top-level package is installed, found out without importing it."""
    spec = importlib.util.find_spec(package)
    # A directory of that name in the working directory is a namespace package: it has no origin.
    return spec is not None and spec.origin is not None


def default_engine(
    chosen: str | None = None,
    *,
    known: Collection[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    installed: Callable[[str], bool] = importable,
) -> str:
    """The engine of instances that name none and are not reached over HTTP.

    The variable `SAGE_LLM_OPS__DEFAULT_ENGINE` beats `chosen` (what a file or an argument says).
    Where neither speaks: the one real engine that is installed, or `sim` where there is none.
    Several installed are an error, because a guess would serve from the wrong one.
    """
    variable = setting("default_engine", environ)
    if variable is not None:
        name, value = variable
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{value!r} must be the name of an engine", file=name)
        if known is not None and value not in known:
            raise UnknownName("engine", value, known, file=name)
        return value
    if chosen is not None:
        return chosen
    found = [engine for engine in REAL_ENGINES if installed(engine)]
    if len(found) > 1:
        raise ConfigError(
            f"several engines are installed ({', '.join(found)}): choose one with "
            f"`default_engine`, or with {PREFIX}DEFAULT_ENGINE, or per instance with `engine`",
            key="default_engine",
        )
    return found[0] if found else "sim"
