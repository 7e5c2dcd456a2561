"""Files and environment variables to frozen objects; every refusal says where it was written.

A room without state. Callers: the command line, the service, whoever builds a pipeline; at start,
never per request. Importing it is light: pydantic is imported by the first file that is loaded.
"""

from sage_llm_ops.config.pipeline_dump import dump_pipeline
from sage_llm_ops.config.pipelines import load_pipeline, pipeline_from
from sage_llm_ops.config.recognise import load_any
from sage_llm_ops.config.services import (
    SERVICE_TYPE,
    ServiceConfig,
    ServicesConfig,
    load_services,
    service_of,
    services_from,
)
from sage_llm_ops.config.settings import default_engine
from sage_llm_ops.config.toml_source import TomlSource, parse_toml, read_toml

__all__ = [
    "SERVICE_TYPE",
    "ServiceConfig",
    "ServicesConfig",
    "TomlSource",
    "default_engine",
    "dump_pipeline",
    "load_any",
    "load_pipeline",
    "load_services",
    "parse_toml",
    "pipeline_from",
    "read_toml",
    "service_of",
    "services_from",
]
