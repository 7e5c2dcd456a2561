"""A link between two tiers, as busy as what was sent over it."""

from __future__ import annotations

from typing import final

from sage_llm_ops.types.errors import ConfigError


@final
class Link:
    """One transfer after the other, in the order in which they are asked for. Milliseconds."""

    def __init__(self, gigabytes_per_s: float, latency_ms: float = 0.02) -> None:
        if gigabytes_per_s <= 0.0 or latency_ms < 0.0:
            raise ConfigError(
                f"link of {gigabytes_per_s} GB/s and {latency_ms} ms: the first must be above 0, "
                "the second at least 0"
            )
        self.gigabytes_per_s, self.latency_ms = gigabytes_per_s, latency_ms
        self._free_at = 0.0

    def transfer_ms(self, size_bytes: int) -> float:
        """Alone on the link."""
        return self.latency_ms + size_bytes / (self.gigabytes_per_s * 1e6)

    def wait_ms(self, now_ms: float) -> float:
        """Until what was sent before is through."""
        return max(0.0, self._free_at - now_ms)

    def send(self, now_ms: float, size_bytes: int) -> float:
        """Take the link; when the last byte is there."""
        self._free_at = max(self._free_at, now_ms) + self.transfer_ms(size_bytes)
        return self._free_at
