"""`sage-llm-ops demo`: three acts on this machine, each closed by one sentence.

Every sentence is the result of a check; where one fails, the demo ends with an error that names it.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer


def demo(
    model: Annotated[
        str | None, typer.Option(help="Hub name or directory; without it a tiny one, made here.")
    ] = None,
) -> None:
    """Serve, kill a worker, simulate: with real workers where vLLM is installed."""
    began = time.monotonic()
    from sage_llm_ops.cli.demo.screen import Screen
    from sage_llm_ops.cli.demo.stage import choose

    screen = Screen()
    stage = choose(model)
    screen.say(stage.line, style="bold")

    from sage_llm_ops.cli.demo.play import play

    play(stage, screen)
    screen.say(f"({time.monotonic() - began:.0f} s)")
