"""Which kind of file it is, from what it holds."""

from __future__ import annotations

import os
from collections.abc import Mapping

from sage_llm_ops.config.pipelines import TABLES, pipeline_from
from sage_llm_ops.config.services import ServicesConfig, services_from
from sage_llm_ops.config.tables import Known
from sage_llm_ops.config.toml_source import read_toml
from sage_llm_ops.types.pipelines import PipelineSpec


def load_any(
    path: str | os.PathLike[str],
    *,
    known: Known | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServicesConfig | PipelineSpec:
    """Load a `services.toml` or a pipeline's file. Raises `ConfigError`."""
    source = read_toml(path)
    tables = [name for name in ("services", "pipeline", "operators") if name in source.data]
    match tables:
        case ["services"]:
            return services_from(source, known=known, environ=environ)
        case ["services", other, *_]:
            raise source.error((other,), "a file of services holds no pipeline: split the file")
        case [_, *_]:
            return pipeline_from(source, known=known, environ=environ)
    for name in source.data:
        raise source.unknown((name,), "table", name, ("services", *TABLES))
    raise source.error((), "is empty: neither [services.NAME] nor [pipeline] is in it")
