"""What a sample that only shows signatures promises, read from its syntax tree."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import dataclass, field
from typing import Any

ROOMS = ("", ".core", ".scheduler_ir", ".scheduler_ir.strategies", ".scheduler_ir.routing")


@dataclass
class Promise:
    """One class of a sample."""

    fields: dict[str, str | None] = field(default_factory=dict)
    """Annotated class attributes, in order, with the source of their defaults."""
    methods: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = field(default_factory=dict)
    attributes: list[str] = field(default_factory=list)
    """What `__init__` sets on self."""


def promises(block: str) -> dict[str, Promise]:
    """The classes of a sample."""
    classes = [node for node in ast.parse(block).body if isinstance(node, ast.ClassDef)]
    return {node.name: _promise(node) for node in classes}


def _promise(node: ast.ClassDef) -> Promise:
    promise = Promise()
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            promise.fields[item.target.id] = None if item.value is None else ast.unparse(item.value)
        elif isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            promise.methods[item.name] = item
            if item.name == "__init__":
                promise.attributes = [
                    part.attr
                    for part in ast.walk(item)
                    if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
                ]
    return promise


def ours(name: str) -> Any:
    """Our class of that name, wherever it lives; `LookupError` where there is none."""
    for room in ROOMS:
        found = getattr(importlib.import_module(f"sage_llm_ops{room}"), name, None)
        if found is not None:
            return found
    raise LookupError(f"no {name} in any of our rooms")


def check_methods(cls: Any, promise: Promise, *, but: tuple[str, ...] = ()) -> None:
    """Promised methods exist, are async where promised, and take the promised arguments first."""
    for name, shown in promise.methods.items():
        if name in but or name == "__init__":
            continue
        method = inspect.getattr_static(cls, name)
        assert inspect.iscoroutinefunction(method) == isinstance(shown, ast.AsyncFunctionDef), name
        wanted = [argument.arg for argument in shown.args.args]
        given = list(inspect.signature(method).parameters.values())
        assert [parameter.name for parameter in given[: len(wanted)]] == wanted, name
        for extra in given[len(wanted) :]:
            assert extra.default is not inspect.Parameter.empty, f"{name}: {extra} is required"


def defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, Any]:
    """Arguments with a default, in order."""
    names = [argument.arg for argument in function.args.args][-len(function.args.defaults) :]
    values = [ast.literal_eval(default) for default in function.args.defaults]
    return dict(zip(names, values, strict=True))
