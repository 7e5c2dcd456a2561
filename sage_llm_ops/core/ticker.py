"""A thread that does one thing again and again until it is stopped."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("sage_llm_ops.core")


class Ticker:
    """Calls `tick` every `interval_s`, counted from the end of the call before. What it raises is
    logged and does not end it."""

    def __init__(self, name: str, interval_s: float, tick: Callable[[], object]) -> None:
        self._name = name
        self._interval_s = interval_s
        self._tick = tick
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; idempotent, and nothing once it was stopped."""
        with self._lock:
            if self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def stop(self, wait_s: float | None = None) -> None:
        """End for good; returns when the thread is gone, unless it is the caller, or after
        `wait_s`: the call that is under way then ends by itself."""
        self._over.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(wait_s)

    def _run(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                self._tick()
            except Exception:
                log.exception("%s failed; it goes on", self._name)
