"""Runs a sample the way its reader would: as a script, or typed into a session that can await."""

from __future__ import annotations

import ast
import asyncio
import inspect
from typing import Any

from tests.seeds.rows import text


def run(name: str, **prelude: Any) -> dict[str, Any]:
    """Execute a row's block after its prelude; what it defined."""
    return run_text(text(name), name, **prelude)


def run_text(block: str, name: str, **prelude: Any) -> dict[str, Any]:
    """`run` for a part of a block. Must be called without a running event loop."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(block, f"<sample {name}>", "exec", flags, dont_inherit=True)
    scope: dict[str, Any] = {"__name__": "__main__", **prelude}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, scope))
    else:
        exec(code, scope)
    return scope
