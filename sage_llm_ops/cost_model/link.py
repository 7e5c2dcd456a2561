"""How long KV takes from one worker to another."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.types.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Link:
    """Latency and bandwidth, one way. The default is a 200 Gb/s network card at full speed."""

    latency_ms: float = 1.0
    gb_per_s: float = 25.0

    def __post_init__(self) -> None:
        if not self.latency_ms >= 0.0:
            raise ConfigError(f"link_latency_ms={self.latency_ms!r} must be 0 or more")
        if not self.gb_per_s > 0.0:
            raise ConfigError(f"link_gb_per_s={self.gb_per_s!r} must be above 0")

    def transfer_ms(self, n_bytes: float) -> float:
        """Time of one transfer that has the link to itself."""
        return self.latency_ms + n_bytes / (self.gb_per_s * 1e6)
