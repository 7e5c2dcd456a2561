"""`[services.NAME.gateway]`: the OpenAI-compatible server in front of a service.

[services.llm_control_plane.gateway]
port = 8889

[[services.llm_control_plane.gateway.api_keys]]
name = "ops"
sha256 = "..."        # `sage-llm-ops key` makes a key and prints this
role = "admin"
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from typing import Any

from sage_llm_ops.config.nouns import shape_of
from sage_llm_ops.config.overrides import Shape
from sage_llm_ops.config.tables import located, read_fields, read_table, rows_at, table_at
from sage_llm_ops.config.toml_lines import Path
from sage_llm_ops.config.toml_source import TomlSource
from sage_llm_ops.types.errors import ConfigError, UnknownName

ROLES = ("user", "admin")
UNKNOWN_MODEL = ("refuse", "alias")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, known by its hash alone. `admin` may also manage engines."""

    name: str
    sha256: str
    role: str = "user"
    tenant: str | None = None
    """Whose requests it sends, whatever they say; None: they may say it themselves."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("'' names nobody; give the key a name", key="name")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError(
                f"{self.sha256!r} is no SHA-256 in lower-case hex (64 digits); "
                "`sage-llm-ops key` prints one",
                key="sha256",
            )
        if self.role not in ROLES:
            raise UnknownName("role", self.role, ROLES, key="role")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Where it listens, whom it lets in, and how much of anything it takes."""

    host: str = "127.0.0.1"
    port: int = 8889
    """0: any free one."""
    allow_unauthenticated: bool = False
    """Whether anybody who reaches an address beyond this machine may use it without a key."""
    unknown_model: str = "refuse"
    """`alias`: a name that nobody serves means `alias_model`."""
    alias_model: str | None = None
    """None: the only model served here."""
    default_max_tokens: int = 512
    """Of a chat that names none; never more than what fits behind the prompt."""
    max_concurrency: int = 1024
    """Requests at a time; one more is answered with 429."""
    max_connections: int = 4096
    max_body_bytes: int = 8 << 20
    max_prompt_tokens: int | None = None
    """None: what the engines take."""
    max_header_bytes: int = 32 << 10
    header_timeout_s: float = 10.0
    """From the first byte of a request to the end of its head."""
    body_timeout_s: float = 30.0
    keep_alive_s: float = 75.0
    """How long a connection may be idle."""
    write_timeout_s: float = 60.0
    """How long a client may take nothing of what is ready for it."""
    engine_wait_s: float = 30.0
    """How long requests for a model wait while none of its engines is up: they are started again. After
    that whoever waits, and whoever comes, is told 503."""
    drain_s: float = 30.0
    """On SIGTERM: how long what is in flight may take."""
    api_keys: tuple[ApiKey, ...] = ()

    def __post_init__(self) -> None:
        if self.unknown_model not in UNKNOWN_MODEL:
            raise UnknownName(
                "unknown_model", self.unknown_model, UNKNOWN_MODEL, key="unknown_model"
            )
        if self.alias_model is not None and self.unknown_model != "alias":
            raise ConfigError(
                f"{self.alias_model!r} means nothing while unknown_model={self.unknown_model!r}; "
                "write unknown_model = 'alias'",
                key="alias_model",
            )
        self._check_ranges()
        _check_unique(self.api_keys)
        if not self.loopback and not self.api_keys and not self.allow_unauthenticated:
            raise ConfigError(
                f"{self.host!r} can be reached from other machines and no api_keys are configured; "
                "add [[...gateway.api_keys]] (`sage-llm-ops key` makes one), listen on 127.0.0.1, "
                "or write allow_unauthenticated = true",
                key="host",
            )

    def _check_ranges(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"{self.port} must be between 0 and 65535", key="port")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "port" or type(value) not in (int, float):
                continue
            if not value > 0:
                raise ConfigError(f"{value} must be above 0", key=field.name)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """`localhost` and the loopback addresses; any other name may mean any machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_unique(keys: tuple[ApiKey, ...]) -> None:
    for what in ("name", "sha256"):
        seen = set()
        for key in keys:
            value = getattr(key, what)
            if value in seen:
                raise ConfigError(f"two keys have the {what} {value!r}", key="api_keys")
            seen.add(value)


_PLAIN = tuple(field.name for field in fields(GatewayConfig) if field.name != "api_keys")
SHAPE = Shape(
    {"api_keys": Shape(row_ids=("name",), each=shape_of(ApiKey))},
    shape_of(GatewayConfig, _PLAIN).values,
)


def read_gateway(source: TomlSource, path: Path, value: Any) -> GatewayConfig:
    """The table at `path`; what it leaves out has its default."""
    table = dict(table_at(source, path, value))
    place: Path = (*path, "api_keys")
    keys = tuple(
        read_table(source, where, row, ApiKey)
        for where, row in rows_at(source, place, table.pop("api_keys", []))
    )
    unknown = next((key for key in table if key not in _PLAIN), None)
    if unknown is not None:
        raise source.unknown((*path, unknown), "key", unknown, ("api_keys", *_PLAIN))
    given = read_fields(source, path, table, GatewayConfig, _PLAIN)
    with located(source, path):
        return GatewayConfig(**given, api_keys=keys)
