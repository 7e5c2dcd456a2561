"""`services.toml`: the services of a SAGE application that are this package's.

    [services.llm_control_plane]
    type = "ControlPlaneVLLMService"
    scheduling_policy = "fifo"

    [[services.llm_control_plane.instances]]
    instance_id = "w0"
    engine = "sim"

Tables of any other type belong to other SAGE services and are not looked into.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_llm_ops.config import gateway, instances
from sage_llm_ops.config.gateway import GatewayConfig
from sage_llm_ops.config.nouns import shape_of
from sage_llm_ops.config.overrides import Shape, override
from sage_llm_ops.config.tables import Known, check_known, located, read_fields, table_at
from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource, read_toml
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.instances import ExecutionInstance

SERVICE_TYPE = "ControlPlaneVLLMService"
_TOO_NEAR = 0.8
"""A name this similar to ours is a slip of the pen; `VLLMService` (0.65) is SAGE's own."""


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """One `ControlPlaneVLLMService`. None: the default of `ControlPlaneManager`; but no
    `routing_strategy` is `predicted_latency`."""

    name: str
    scheduling_policy: str | None = None
    routing_strategy: str | None = None
    enable_pd_separation: bool | None = None
    pd_policy: str | None = None
    default_engine: str | None = None
    max_in_flight: int | None = None
    ledger: str | None = None
    scheduling_options: dict[str, Any] = field(default_factory=dict)
    """Of the order; these four tables are checked by whoever knows the names in them."""
    routing_options: dict[str, Any] = field(default_factory=dict)
    pd_options: dict[str, Any] = field(default_factory=dict)
    admission: dict[str, Any] = field(default_factory=dict)
    """Limits at the door: options of the operator `admit`."""
    instances: tuple[ExecutionInstance, ...] = ()
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    lines: Mapping[str, int | None] = field(default_factory=dict, compare=False, repr=False)
    """Where each instance is written down."""
    option_lines: Mapping[tuple[str, str], int | None] = field(
        default_factory=dict, compare=False, repr=False
    )
    """Where each option is, by its table and its name."""
    file: str | None = field(default=None, compare=False)
    line: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise ConfigError(
                f"max_in_flight={self.max_in_flight} must be at least 1", key="max_in_flight"
            )
        named = ("scheduling_policy", "routing_strategy", "pd_policy", "default_engine", "ledger")
        for name in named:
            if getattr(self, name) == "":
                raise ConfigError("'' names nothing; leave it out for the default", key=name)

    def located(self, error: ConfigError) -> ConfigError:
        """An error about a setting, by whoever knows it, saying where that stands."""
        option = error.key or ""
        path = [(table, option) for table in OPTIONS if option in getattr(self, table)]
        line = self.option_lines.get(path[0], self.line) if len(path) == 1 else self.line
        parts = path[0] if len(path) == 1 else (option,)
        key = ".".join(filter(None, ("services", self.name, *parts)))
        return error.at(file=self.file, line=line, key=key)


OPTIONS = ("scheduling_options", "routing_options", "pd_options", "admission")
SETTINGS = (
    "scheduling_policy",
    "routing_strategy",
    "enable_pd_separation",
    "pd_policy",
    "default_engine",
    "max_in_flight",
    "ledger",
    *OPTIONS,
)
"""Keys of a service's table beside `type`, `instances` and `gateway`."""


@dataclass(frozen=True, slots=True)
class ServicesConfig:
    """The services of one file that are ours, and the names of those that are not."""

    services: tuple[ServiceConfig, ...]
    others: tuple[str, ...] = ()
    file: str | None = field(default=None, compare=False)

    def service(self, name: str | None = None) -> ServiceConfig:
        """The service of this name; without a name, the only one."""
        names = [service.name for service in self.services]
        if name is None and len(names) != 1:
            raise ConfigError(
                f"has {len(names)} services of type {SERVICE_TYPE!r}"
                + (f": say which of {', '.join(names)}" if names else ""),
                file=self.file,
                key="services",
            )
        for service in self.services:
            if name in (None, service.name):
                return service
        raise UnknownName("service", name, names, file=self.file, key="services")


def load_services(
    path: str | os.PathLike[str],
    *,
    known: Known | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ServicesConfig:
    """Read a `services.toml`, with the overrides of the environment.

    `known` lists the registered names of `scheduling_policy`, `routing_strategy`, `engine` or
    `placement`; names of settings that it leaves out are passed on for their user to check.
    Raises `ConfigError`, and nothing else, for whatever the file or a variable says.
    """
    return services_from(read_toml(path), known=known, environ=environ)


def services_from(
    source: TomlSource, *, known: Known | None = None, environ: Mapping[str, str] = os.environ
) -> ServicesConfig:
    """`load_services` of a file that is read already."""
    _check_root(source)
    ours, others = _sorted_out(source)
    settings = shape_of(ServiceConfig, SETTINGS)
    below = {"instances": instances.SHAPE, "gateway": gateway.SHAPE, **settings.tables}
    shape = Shape(below, settings.values)
    services = Shape(dict.fromkeys(ours, shape))
    source = override(source, Shape({"services": services}), environ)
    return ServicesConfig(
        tuple(_service(source, ("services", name), name, known) for name in ours),
        tuple(others),
        source.file,
    )


def service_of(
    table: Mapping[str, Any], name: str = "service", *, known: Known | None = None
) -> ServiceConfig:
    """One service from a dict with the keys of `[services.NAME]`, held to the same rules.

    `instances` may hold `ExecutionInstance` objects too; they are copied, so that two services made
    from one dict share none. The environment overrides files, not what a program says.
    """
    plain = dict(table)
    kind = plain.setdefault("type", SERVICE_TYPE)
    source = TomlSource("config", plain, {})
    if kind != SERVICE_TYPE:
        raise source.unknown(("type",), "service type", kind, [SERVICE_TYPE])
    if isinstance(plain.get("instances"), (list, tuple)):
        plain["instances"] = [_table_of(row) for row in plain["instances"]]
    return _service(source, (), name, known)


def _table_of(row: Any) -> Any:
    if not isinstance(row, ExecutionInstance):
        return copy.deepcopy(row)
    said = dataclasses.asdict(row)
    return {key: value for key, value in said.items() if value is not None}


def _check_root(source: TomlSource) -> None:
    if "services" not in source.data:
        near = difflib.get_close_matches("services", source.data, n=1, cutoff=_TOO_NEAR)
        for name in near:
            raise source.unknown((name,), "table", name, ["services"])
        raise ConfigError("has no table [services.NAME]", file=source.file)
    table_at(source, ("services",), source.data["services"])


def _sorted_out(source: TomlSource) -> tuple[list[str], list[str]]:
    """Names of the services that are ours and of those that are not."""
    ours: list[str] = []
    others: list[str] = []
    for name, value in source.data["services"].items():
        path: Path = ("services", name)
        kind = table_at(source, path, value).get("type")
        if kind is None:
            raise source.error(path, f"`type` is required; this package's is {SERVICE_TYPE!r}")
        if not isinstance(kind, str):
            raise source.error((*path, "type"), f"{kind!r} must be a string")
        if kind != SERVICE_TYPE and _near(kind, SERVICE_TYPE):
            raise source.unknown((*path, "type"), "service type", kind, [SERVICE_TYPE])
        (ours if kind == SERVICE_TYPE else others).append(name)
    return ours, others


def _near(name: str, ours: str) -> bool:
    return difflib.SequenceMatcher(None, name.lower(), ours.lower()).ratio() >= _TOO_NEAR


def _service(source: TomlSource, path: Path, name: str, known: Known | None) -> ServiceConfig:
    table: dict[str, Any] = source.data
    for part in path:
        table = table[str(part)]
    table = {key: value for key, value in table.items() if key != "type"}
    if "vllm_instances" in table:
        header = f"[[services.{name}.instances]]" if path else '{"instances": [...]}'
        raise source.error(
            (*path, "vllm_instances"),
            f"is not read: write {header} (the key is `instances`)",
        )
    rows = table.pop("instances", [])
    door = table.pop("gateway", {})
    unknown = next((key for key in table if key not in SETTINGS), None)
    if unknown is not None:
        keys = ("type", "instances", "gateway", *SETTINGS)
        raise source.unknown((*path, unknown), "key", unknown, keys)
    fields = read_fields(source, path, table, ServiceConfig, SETTINGS)
    check_known(source, path, table, known)
    engines = {"default_engine": known["engine"]} if known and "engine" in known else None
    check_known(source, path, table, engines)
    fleet = instances.read_instances(source, (*path, "instances"), rows, known)
    served = gateway.read_gateway(source, (*path, "gateway"), door)
    lines = {
        instance.instance_id: source.line((*path, "instances", number))
        for number, instance in enumerate(fleet)
    }
    option_lines = {
        (options, option): source.line((*path, options, option))
        for options in OPTIONS
        for option in fields.get(options, {})
    }
    with located(source, path):
        return ServiceConfig(
            name,
            **fields,
            instances=fleet,
            gateway=served,
            lines=lines,
            option_lines=option_lines,
            file=source.file,
            line=source.line(path),
        )
