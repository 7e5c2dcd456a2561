"""What becomes of the prefix cache of an engine in this very process, kept until it is taken."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.engines.kv_events.frames import change
from sage_llm_ops.types.kv import KvChange


class Kept:
    """Stands where vLLM's scheduler has its publisher, with neither a thread nor a socket: vLLM's own
    wakes a thread in every step that stores a block, and that thread takes the step's interpreter."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def take(self) -> list[KvChange]:
        """All since the last time, in order."""
        events, self._events = self._events, []
        return [one for event in events for one in change(event)]

    # vLLM's EventPublisher

    def publish(self, batch: Any) -> None:
        self._events += batch.events

    def shutdown(self) -> None:
        self._events.clear()

    def get_publisher_config(self) -> None:
        """Nobody can subscribe to it."""
