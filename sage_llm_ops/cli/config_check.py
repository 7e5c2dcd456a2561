"""`sage-llm-ops config check FILE`: whether a file can be obeyed, and how it was understood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage_llm_ops.cli.output import Json, print_result

if TYPE_CHECKING:
    from sage_llm_ops.config import ServiceConfig, ServicesConfig
    from sage_llm_ops.types.pipelines import PipelineSpec


def check(
    file: Annotated[Path, typer.Argument(help="A services.toml or a pipeline's .toml.")],
    json: Json = False,
) -> None:
    """Read a configuration file with the environment's overrides, and say what it means."""
    from sage_llm_ops.config import load_any

    found = load_any(file)
    print_result(found, lambda: "\n".join(_lines(found)), json=json)


def _lines(found: ServicesConfig | PipelineSpec) -> Iterator[str]:
    from sage_llm_ops.cli.graph_text import pipeline_lines
    from sage_llm_ops.types.pipelines import PipelineSpec

    if isinstance(found, PipelineSpec):
        yield f"{found.file}: a pipeline"
        yield from pipeline_lines(found)
    else:
        yield from _services(found)


def _services(found: ServicesConfig) -> Iterator[str]:
    from sage_llm_ops.config import SERVICE_TYPE

    yield f"{found.file}: {len(found.services)} x {SERVICE_TYPE}"
    for service in found.services:
        yield ""
        yield from _service(service)
    if found.others:
        yield ""
        yield f"left alone, of other types: {', '.join(found.others)}"


def _service(service: ServiceConfig) -> Iterator[str]:
    from sage_llm_ops.cli.graph_text import instance_line
    from sage_llm_ops.config.services import SETTINGS
    from sage_llm_ops.config.toml_writer import value_text

    yield service.name
    width = max(map(len, SETTINGS))
    for name in SETTINGS:
        value = getattr(service, name)
        yield f"  {name:{width}}  {'(default)' if value is None else value_text(value, name)}"
    yield "  instances" if service.instances else "  no instances"
    for instance in service.instances:
        yield f"    {instance_line(instance)}"
