"""`sage-llm-ops demo`: three acts on this machine, each closed by one sentence.

Every sentence is the result of a check; where one fails, the demo ends with an error that names it.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from sage_llm_ops.cli.output import Json, json_text


def demo(
    model: Annotated[
        str | None, typer.Option(help="Hub name or directory; without it a tiny one, made here.")
    ] = None,
    json: Json = False,
) -> None:
    """Serve, kill a worker, simulate: with real workers where vLLM is installed."""
    began = time.monotonic()
    from sage_llm_ops.cli.demo.screen import Screen
    from sage_llm_ops.cli.demo.stage import choose

    screen = Screen(aside=json)
    stage = choose(model)
    screen.say(stage.line, style="bold")

    from sage_llm_ops.cli.demo.play import play

    result = play(stage, screen)
    took = time.monotonic() - began
    screen.say(f"({took:.0f} s)")
    if json:
        typer.echo(json_text({"engine": stage.engine, **result, "seconds": took}))
