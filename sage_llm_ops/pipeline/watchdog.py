"""Watches the source's thread from outside SAGE, which tells nobody when it dies."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable

from sage_llm_ops.pipeline.live_source import LiveSource

log = logging.getLogger("sage_llm_ops.watchdog")

DUMP_AFTER_S = 1.0
FAIL_AFTER_S = 10.0
"""A dispatch is a fraction of a millisecond. One second is worth a dump; but a machine that was
suspended also looks like that, so callers are told only when it has clearly stopped."""


class Watchdog:
    """Calls `on_dead(reason)` once, when the source's thread has died or hangs in one dispatch."""

    def __init__(
        self,
        source: LiveSource,
        on_dead: Callable[[str], None],
        *,
        dump_after_s: float = DUMP_AFTER_S,
        fail_after_s: float = FAIL_AFTER_S,
    ) -> None:
        self._source = source
        self._on_dead = on_dead
        self._dump_after_s = dump_after_s
        self._fail_after_s = fail_after_s
        self._stop = threading.Event()
        self._dumped: float | None = None
        self._thread = threading.Thread(target=self._run, name="sage-llm-ops-watchdog", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread is gone."""
        self._stop.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(min(0.25, self._dump_after_s / 4)):
            reason = self._verdict()
            if reason and not self._stop.is_set():
                self._on_dead(reason)
                return

    def _verdict(self) -> str:
        source = self._source
        thread = source.thread
        if thread is not None and not thread.is_alive() and not source.ended.is_set():
            return "the thread of the SAGE source died; its traceback is in the log"
        since = source.busy_since
        if since is None:
            return ""
        busy = source.clock() - since
        if busy > self._dump_after_s and self._dumped != since:
            self._dumped = since
            log.error("a dispatch has lasted %.1f s:\n%s", busy, _stack(thread))
        if busy > self._fail_after_s:
            return f"one dispatch has lasted {busy:.0f} s (limit {self._fail_after_s:g} s)"
        return ""


def _stack(thread: threading.Thread | None) -> str:
    frame = sys._current_frames().get(thread.ident or 0) if thread else None
    return "".join(traceback.format_stack(frame)) if frame else "(no stack)"
