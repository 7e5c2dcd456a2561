"""Instances for a pipeline whose file names none."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_llm_ops.types.instances import ExecutionInstance
    from sage_llm_ops.types.pipelines import PipelineSpec

TINY = "tiny"
"""Stands for the random model that is made here, where a model is asked for."""


def with_fleet(
    spec: PipelineSpec,
    *,
    engine: str | None = None,
    instances: int | None = None,
    model: str | None = None,
    **fields: Any,
) -> PipelineSpec:
    """The pipeline with equal instances `NAME-0`, `NAME-1`, ...; one that names its own is refused
    if the arguments say anything else. `fields` are those of `ExecutionInstance`."""
    from sage_llm_ops.config import default_engine
    from sage_llm_ops.engines.registry import engine_class
    from sage_llm_ops.types.errors import ConfigError
    from sage_llm_ops.types.instances import ExecutionInstance

    if spec.instances:
        given = {"engine": engine, "instances": instances, "model": model}
        for name, value in given.items():
            if value is not None:
                raise ConfigError(
                    f"--{name} {value}: the file names its own instances; leave the option out or "
                    "change the file",
                    file=spec.file,
                )
        return dataclasses.replace(spec, instances=tuple(map(_with_tiny, spec.instances)))
    chosen = engine or default_engine()
    engine_class(chosen)  # a wrong name is refused before anything else is asked for
    name = model_name(chosen, model)
    label = chosen.rpartition(":")[2].lower()
    fleet = tuple(
        ExecutionInstance(f"{label}-{n}", model_name=name, engine=chosen, **fields)
        for n in range(instances or 1)
    )
    return dataclasses.replace(spec, instances=fleet)


def _with_tiny(instance: ExecutionInstance) -> ExecutionInstance:
    """Where a file's instance serves the tiny model, its directory."""
    if instance.model_name != TINY or instance.engine == "sim" or "model" in instance.options:
        return instance
    from sage_llm_ops.testing.tiny_model import tiny_model

    options = {**instance.options, "model": str(tiny_model())}
    return dataclasses.replace(instance, options=options)


def model_name(engine: str, model: str | None) -> str:
    """What the instances serve: the name given, the tiny model's directory, or `sim`."""
    from sage_llm_ops.types.errors import ConfigError

    if model == TINY and engine != "sim":
        from sage_llm_ops.testing.tiny_model import tiny_model

        return str(tiny_model())
    if model is None and engine != "sim":
        raise ConfigError(
            f"engine {engine!r} needs --model: a hub name, a directory, or `{TINY}` for a small "
            "random one that is made here"
        )
    return model or "sim"
