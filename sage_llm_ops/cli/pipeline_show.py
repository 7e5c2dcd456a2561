"""`sage-llm-ops pipeline show FILE`: the graph of a pipeline's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_llm_ops.cli.output import Json, json_text


def show(
    file: Annotated[Path, typer.Argument(help="A pipeline's .toml.")],
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a mermaid chart.")] = False,
    toml: Annotated[bool, typer.Option("--toml", help="Print the file as it is read.")] = False,
    json: Json = False,
) -> None:
    """Draw the operators, the edges between them and the instances."""
    from sage_llm_ops.cli.graph_mermaid import mermaid_lines
    from sage_llm_ops.cli.graph_text import pipeline_lines
    from sage_llm_ops.config import dump_pipeline, load_pipeline

    if mermaid + toml + json > 1:
        raise typer.BadParameter("choose one of --mermaid, --toml and --json")
    spec = load_pipeline(file)
    if toml:
        typer.echo(dump_pipeline(spec), nl=False)
    elif json:
        typer.echo(json_text(spec))
    else:
        typer.echo("\n".join((mermaid_lines if mermaid else pipeline_lines)(spec)))
