"""`sage-llm-ops doctor`: what is installed, what works when it is tried, and what mends the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from sage_llm_ops.cli.output import Json, json_text

if TYPE_CHECKING:
    from sage_llm_ops.cli.doctor.checks import Check


def doctor(json: Json = False) -> None:
    """Try what serving needs, on this machine. Exit code 1: something that is needed is broken."""
    from sage_llm_ops.cli.doctor.checks import examine

    found = []
    for check in examine():
        found.append(check)
        if not json:
            typer.echo("\n".join(_lines(check)))
    broken = [check.name for check in found if check.state == "broken"]
    if json:
        typer.echo(json_text({"ok": not broken, "checks": found}))
    else:
        typer.echo(_verdict(found, broken))
    if broken:
        raise typer.Exit(1)


def _lines(check: Check) -> Iterable[str]:
    yield f"{check.state:8}{check.name:16}{check.said}"
    if check.fix:
        yield f"{'':24}mend it: {check.fix}"


def _verdict(found: list[Check], broken: list[str]) -> str:
    if broken:
        return f"{len(broken)} of {len(found)} checks failed: {', '.join(broken)}"
    absent = [check.name for check in found if check.state == "absent"]
    also = f"; not here, and not needed: {', '.join(absent)}" if absent else ""
    return f"all that is needed works{also}"
