"""One thread that wakes inline workers when their engines have something to say.

All workers of a plane share one pump: 64 simulated workers are one thread and one heap, not 64
sleepers. A wake is never taken back: the worker knows which moment it still waits for.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol, final


class Wakeable(Protocol):
    """What the pump calls, on its thread and without any of its locks held."""

    def on_wake(self, when: float) -> None:
        """A moment it asked for, and may have forgotten since, has come. Must not raise."""


@final
class Pump:
    """Started by the first `attach`, ended by the last `detach`; may be started again.

    `threaded=False` is for tests with a clock of their own: nothing moves but by `run_due`.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, threaded: bool = True
    ) -> None:
        self.clock = clock
        self._threaded = threaded
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Wakeable]] = []
        self._order = itertools.count()
        self._attached: set[Wakeable] = set()
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def attach(self, worker: Wakeable) -> None:
        """Serve this worker from now on; idempotent."""
        with self._changed:
            self._attached.add(worker)
            if self._threaded and self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="sage-llm-ops-inline-pump", daemon=True
                )
                self._thread.start()

    def detach(self, worker: Wakeable) -> None:
        """Forget this worker; idempotent. One call of its `on_wake` may still be on the way."""
        with self._changed:
            self._attached.discard(worker)
            self._heap = [entry for entry in self._heap if entry[2] is not worker]
            self._heap.sort()
            if not self._attached:
                self._changed.notify()

    def at(self, when: float, worker: Wakeable) -> None:
        """Wake the worker once, at `when` on the pump's clock."""
        with self._changed:
            if worker not in self._attached:
                return
            heappush(self._heap, (when, next(self._order), worker))
            if self._heap[0][2] is worker:
                self._changed.notify()

    def run_due(self) -> int:
        """Wake everybody whose moment has come; how many that were."""
        count = 0
        while True:
            with self._changed:
                if not self._heap or self._heap[0][0] > self.clock():
                    return count
                when, _, worker = heappop(self._heap)
            worker.on_wake(when)
            count += 1

    @property
    def next_wake(self) -> float | None:
        """The earliest moment somebody asked for."""
        with self._changed:
            return self._heap[0][0] if self._heap else None

    @property
    def pending(self) -> int:
        """Wakes asked for, outdated ones included."""
        return len(self._heap)

    def _serve(self) -> None:
        while True:
            with self._changed:
                if not self._attached:
                    self._thread = None
                    return
                wait = None if not self._heap else self._heap[0][0] - self.clock()
                if wait is None or wait > 0.0:
                    self._changed.wait(wait)
                    continue
            self.run_due()


_shared_lock = threading.Lock()
_shared: dict[Callable[[], float], Pump] = {}


def shared_pump(clock: Callable[[], float] = time.monotonic) -> Pump:
    """The process-wide pump of a clock. Not for clocks made per test: give those their own."""
    with _shared_lock:
        return _shared.setdefault(clock, Pump(clock))
