"""Where requests are executed."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from typing import Any

from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.fields import refuse_unknown_fields


class ExecutionInstanceType(StrEnum):
    """What an instance is for; found by name in any case."""

    GENERAL = "general"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    HYBRID = "hybrid"
    EMBEDDING = "embedding"
    LLM_EMBEDDING = "llm_embedding"

    @classmethod
    def _missing_(cls, value: object) -> ExecutionInstanceType | None:
        text = str(value).lower()
        return next((member for member in cls if member.value == text), None)


PLACEMENTS = ("inline", "process", "http")
"""How a worker is attached; `ray` is refused by name until it is built."""


@dataclass(slots=True)
class PrefillingConfig:
    """What a prefilling instance is tuned for."""

    target_batch_size: int | None = None
    tensor_parallel_size: int | None = None
    enable_chunked_prefill: bool = True


@dataclass(slots=True)
class DecodingConfig:
    """What a decoding instance is tuned for."""

    target_latency_ms: float | None = None
    max_parallel_requests: int | None = None


@refuse_unknown_fields
@dataclass(slots=True)
class ExecutionInstance:
    """One logical worker: what it serves and how it is reached.

    `engine`, `placement`, `host` and `port` are None until something says otherwise: a host or a
    port means an OpenAI-compatible server, nothing means the configured default engine, direct.
    """

    instance_id: str
    host: str | None = None
    port: int | None = None
    model_name: str = ""
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    expert_parallel_size: int = 1
    gpu_count: int | None = None
    instance_type: ExecutionInstanceType | str = ExecutionInstanceType.GENERAL
    health_status: str = "unknown"
    prefilling_config: PrefillingConfig | None = None
    decoding_config: DecodingConfig | None = None
    engine: str | None = None
    placement: str | None = None
    max_concurrency: int | None = None
    """Requests given to the worker at a time; None: what the engine says it can batch."""
    hardware: str = ""
    """What it runs on, as the cost model's tables call it: `h200`, `a100-80gb`."""
    location: str = ""
    """Where it stands, from the outside in: `rack1/host3/socket0`."""
    price_per_hour: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """Engine options, checked by the engine's own option type."""
    aliases: list[str] = field(default_factory=list)
    """Further names under which `model_name` may be asked for."""

    def __post_init__(self) -> None:
        if not isinstance(self.instance_id, str) or not self.instance_id:
            raise ConfigError(
                f"instance_id={self.instance_id!r} must be a non-empty string",
                key="instance_id",
            )
        try:
            self.instance_type = ExecutionInstanceType(self.instance_type)
        except ValueError:
            raise UnknownName(
                "instance type",
                self.instance_type,
                [t.value for t in ExecutionInstanceType],
                key="instance_type",
            ) from None
        self._check_parallelism()
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ConfigError(
                f"instance {self.instance_id!r}: port={self.port} must be between 1 and 65535",
                key="port",
            )
        if self.price_per_hour is not None and not 0.0 <= self.price_per_hour < inf:
            raise ConfigError(
                f"instance {self.instance_id!r}: price_per_hour={self.price_per_hour!r} "
                "must be 0 or more, and finite",
                key="price_per_hour",
            )
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigError(
                f"instance {self.instance_id!r}: max_concurrency={self.max_concurrency} "
                "must be at least 1",
                key="max_concurrency",
            )

    def _check_parallelism(self) -> None:
        for name in ("tensor", "pipeline", "data", "expert"):
            size = getattr(self, f"{name}_parallel_size")
            if size < 1:
                raise ConfigError(
                    f"instance {self.instance_id!r}: {name}_parallel_size={size} must be at least 1",
                    key=f"{name}_parallel_size",
                )
        if self.gpu_count is not None and self.gpu_count < self.ranks:
            raise ConfigError(
                f"instance {self.instance_id!r}: gpu_count={self.gpu_count} is below the {self.ranks} "
                "ranks of its tensor x pipeline x data parallelism; raise gpu_count or leave it out",
                key="gpu_count",
            )

    @property
    def other_names(self) -> tuple[str, ...]:
        """What it serves beside `model_name`: aliases, and what its options name: adapters, and models
        that share the engine."""
        beside = (*self.options.get("lora_modules", ()), *self.options.get("models", ()))
        return (*self.aliases, *(name for name in beside if name != self.model_name))

    @property
    def ranks(self) -> int:
        """Devices that its parallelism needs."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.data_parallel_size

    @property
    def wants_http(self) -> bool:
        """Whether the fields say "an OpenAI-compatible server"."""
        said = self.placement == "http" or self.engine == "http"
        return said or self.host is not None or self.port is not None
