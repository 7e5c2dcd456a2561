"""`sage-llm-ops config check FILE`: whether a file can be obeyed, and how it was understood."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage_llm_ops.cli.output import Json, print_result

if TYPE_CHECKING:
    from sage_llm_ops.config import ServiceConfig, ServicesConfig
    from sage_llm_ops.config.gateway import GatewayConfig
    from sage_llm_ops.types.pipelines import PipelineSpec


def check(
    file: Annotated[Path, typer.Argument(help="A services.toml or a pipeline's .toml.")],
    json: Json = False,
) -> None:
    """Read a configuration file with the environment's overrides, and say what it means."""
    from sage_llm_ops.config import load_any
    from sage_llm_ops.core.defaults import NAMES

    found = load_any(file, known=NAMES)
    _check_registries(found)
    print_result(found, lambda: "\n".join(_lines(found)), json=json)


def _check_registries(found: ServicesConfig | PipelineSpec) -> None:
    """What only the registries know: operators and their options, engines and theirs."""
    from sage_llm_ops.config import default_engine
    from sage_llm_ops.engines.registry import check_instance
    from sage_llm_ops.pipeline.replay import dry_run
    from sage_llm_ops.types.pipelines import PipelineSpec

    if isinstance(found, PipelineSpec):
        dry_run(found)
        for instance in found.instances:
            check_instance(instance, instance.engine or default_engine())
        return
    for service in found.services:
        _check_policies(service)
        for instance in service.instances:
            chosen = instance.engine or default_engine(service.default_engine)
            check_instance(instance, chosen)


def _check_policies(service: ServiceConfig) -> None:
    from sage_llm_ops.core.defaults import serving_of
    from sage_llm_ops.pipeline.replay import dry_run
    from sage_llm_ops.types.errors import ConfigError

    try:
        dry_run(serving_of(service))
    except ConfigError as error:
        raise service.located(error) from None


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
        said = "(default)" if value in (None, {}) else value_text(value, name)
        yield f"  {name:{width}}  {said}"
    yield f"  {'gateway':{width}}  {_gateway(service.gateway)}"
    yield "  instances" if service.instances else "  no instances"
    for instance in service.instances:
        yield f"    {instance_line(instance)}"


def _gateway(door: GatewayConfig) -> str:
    from sage_llm_ops.cli.numbers import count

    keys = count(len(door.api_keys), "key") if door.api_keys else "no keys"
    return f"{door.host}:{door.port}, {keys}, unknown models: {door.unknown_model}"
