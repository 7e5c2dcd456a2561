"""What the two ways of running vLLM have in common."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

REJECTIONS = (ValueError, TypeError, NotImplementedError)
"""What vLLM raises for a request it cannot take; its own VLLMValidationError is a ValueError."""


class Rejected(NamedTuple):
    """vLLM refused a request after `add` had returned."""

    key: str
    error: Exception


class Load(NamedTuple):
    """Requests in the scheduler and the part of the KV cache in use."""

    running: int
    waiting: int
    kv_usage: float


class Core(Protocol):
    """Driven by `VllmEngine` from one thread. Keys are ours; a key is used once."""

    def start(self) -> None:
        """Load; raises whatever vLLM raises."""

    def stop(self) -> None:
        """Idempotent."""

    @property
    def config(self) -> Any:
        """vLLM's VllmConfig, with the cache's size filled in."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks vLLM says the model supports."""

    def add(self, key: str, ids: list[int], params: Any, *, pooling: bool) -> None:
        """Raises one of `REJECTIONS`, or reports `Rejected` later."""

    def abort(self, key: str) -> None:
        """Outputs of the key may still come; nobody listens to them."""

    def poll(self) -> list[Any]:
        """Advance, or wait a moment; RequestOutput, PoolingRequestOutput or Rejected."""

    def load(self) -> Load:
        """As of now, or of the last step."""
