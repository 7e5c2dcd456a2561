"""The commands and their groups."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from sage_llm_ops.cli import (
    chat,
    config_check,
    demo,
    doctor,
    key,
    pipeline_show,
    policy_replay,
    replay,
    run,
    serve,
    simulate,
    why,
)

app = typer.Typer(
    help="LLM serving's control plane as a SAGE dataflow.",
    no_args_is_help=True,
    # Our errors are sentences (see `main`), and rich would triple the time of --help.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        version = metadata.version("sage-llm-ops")
    except metadata.PackageNotFoundError:
        version = "(a source tree that is not installed)"
    typer.echo(f"sage-llm-ops {version}")
    raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show it and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """LLM serving's control plane as a SAGE dataflow."""


config = typer.Typer(help="Configuration files.", no_args_is_help=True)
config.command("check")(config_check.check)
app.add_typer(config, name="config")

pipeline = typer.Typer(help="Pipelines.", no_args_is_help=True)
pipeline.command("show")(pipeline_show.show)
app.add_typer(pipeline, name="pipeline")

policy = typer.Typer(help="KV policies.", no_args_is_help=True)
policy.command("replay")(policy_replay.replay)
app.add_typer(policy, name="policy")

app.command("demo")(demo.demo)
app.command("run")(run.run)
app.command("serve")(serve.serve)
app.command("key")(key.key)
app.command("simulate")(simulate.simulate)
app.command("replay")(replay.replay)
app.command("why")(why.why)
app.command("chat")(chat.chat)
app.command("doctor")(doctor.doctor)
