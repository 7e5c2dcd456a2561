"""What commands print: text for people, JSON for programs, errors as one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option that every command with a result takes."""


def print_result(value: object, text: Callable[[], str], *, json: bool) -> None:
    """Print `value` as JSON (dataclasses and msgspec structs too), or what `text` makes of it."""
    typer.echo(json_text(value) if json else text())


def json_text(value: object) -> str:
    """Indented JSON. NaN and the infinities become null, which JSON has instead."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def print_error(error: Exception) -> None:
    """The sentence, red on a terminal unless NO_COLOR is set."""
    color = False if os.environ.get("NO_COLOR") else None
    typer.echo(typer.style(f"error: {error}", fg=typer.colors.RED), err=True, color=color)


def readable(text: str, keep: str = "") -> str:
    """A model may say control characters; a terminal must not obey them."""
    return "".join(char if char.isprintable() or char in keep else "·" for char in text)
