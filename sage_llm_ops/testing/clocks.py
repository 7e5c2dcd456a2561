"""Clocks that move when a test says so."""

from __future__ import annotations

import threading
from typing import final


@final
class ManualClock:
    """Call it for the time; it never goes back. Thread-safe."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """The time."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Later by so much; the new time."""
        if seconds < 0.0:
            raise ValueError(f"a clock does not go back: seconds={seconds!r} must be 0 or more")
        with self._lock:
            self._now += seconds
            return self._now

    def to(self, when: float) -> float:
        """At `when`, or where it is if that is past already."""
        with self._lock:
            self._now = max(self._now, when)
            return self._now

    def sleep(self, seconds: float) -> None:
        """In place of `time.sleep`: the time passes at once."""
        self.advance(max(0.0, seconds))
