"""A source that gives SAGE one event at a time."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Any

from sage.runtime import StopSignal

from sage_llm_ops.pipeline.timers import TimerHeap
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Event


class SteppedSource(TimerHeap):
    """Gives SAGE one event and tells when SAGE comes back for the next."""

    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self._patience_s = patience_s
        self._inbox: SimpleQueue[Event | None] = SimpleQueue()
        self._asked = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._seq = 0

    def __call__(self) -> Any:
        """SAGE's poll."""
        self._thread = threading.current_thread()
        self._asked.release()
        event = self._inbox.get()
        return StopSignal("closed") if event is None else event

    def step(self, event: Event, now: float) -> None:
        """Stamp the event and return when its dispatch has ended."""
        self._seq += 1
        event.seq, event.now = self._seq, now
        self._inbox.put(event)
        self.wait(event)

    def wait(self, event: Event | None = None) -> None:
        """Until SAGE asks for an event."""
        for _ in range(int(self._patience_s / 0.05)):
            if self._asked.acquire(timeout=0.05):
                return
            if self._thread is not None and not self._thread.is_alive():
                raise IntegrityError(f"the source's thread died of {event!r}")
        raise IntegrityError(f"the dispatch of {event!r} does not end")

    def close(self) -> None:
        """Let the source end."""
        self._inbox.put(None)
