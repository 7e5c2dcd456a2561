"""What the two ways of running vLLM have in common."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


def is_refusal(error: Exception) -> bool:
    """Whether the request is at fault. vLLM raises Python's own errors and, in newer versions, its
    `VLLMClientError` tree, which is none of them."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ValueError", "TypeError", "NotImplementedError", "VLLMClientError"})


class Rejected(NamedTuple):
    """A request ended with an exception after `add` had returned."""

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

    def add(self, key: str, ids: list[int], params: Any, *, pooling: bool, **more: Any) -> None:
        """`more`: keywords that both of vLLM's engines take. Raises what vLLM raises, or reports it
        as `Rejected` later."""

    def abort(self, key: str) -> None:
        """Outputs of the key may still come; nobody listens to them."""

    def poll(self) -> list[Any]:
        """Advance, or wait a moment; RequestOutput, PoolingRequestOutput or Rejected."""

    def load(self) -> Load:
        """As of now, or of the last step."""
