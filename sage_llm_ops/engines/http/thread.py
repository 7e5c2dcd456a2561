"""The one event loop of all HTTP workers, on a thread of its own.

One for all, like the hub of the worker processes: it starts with the first and ends with the last.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

Begin = Callable[[], Coroutine[Any, Any, None]]


class LoopThread:
    """Use `LoopThread.shared()`."""

    _shared: ClassVar[LoopThread | None] = None
    _shared_pid: ClassVar[int] = 0
    _guard: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def shared(cls) -> LoopThread:
        """This process's; a fork has threads and sockets of its own."""
        with cls._guard:
            if cls._shared is None or cls._shared_pid != os.getpid():
                cls._shared, cls._shared_pid = LoopThread(), os.getpid()
            return cls._shared

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._alive = 0

    def spawn(self, begin: Begin) -> asyncio.AbstractEventLoop:
        """Run `begin()` on the loop until it returns; the loop, which lives at least so long."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="http-workers", daemon=True
                )
                self._thread.start()
            self._alive += 1
            loop = self._loop
        loop.call_soon_threadsafe(self._begin, loop, begin)
        return loop

    @property
    def inside(self) -> bool:
        """Whether the caller is on this thread."""
        return threading.current_thread() is self._thread

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end, which comes after that of its last worker."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _begin(self, loop: asyncio.AbstractEventLoop, begin: Begin) -> None:
        loop.create_task(begin()).add_done_callback(lambda task: self._ended(loop, task))

    def _ended(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._alive -= 1
            if not self._alive:
                self._loop = None  # whoever comes next starts another thread
                loop.stop()
        task.result()  # a defect of ours is shown by the loop's handler, not swallowed

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
