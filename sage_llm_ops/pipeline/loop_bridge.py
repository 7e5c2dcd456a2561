"""From the threads that make tokens into the event loops that read them.

`call_soon_threadsafe` writes to the loop's wake-up socket every time: a system call on the thread
that serves all requests, and a turn of the loop for each token. The bridge of a loop gathers
what comes until the loop gets round to it, and wakes it once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, final
from weakref import WeakValueDictionary


@final
class LoopBridge:
    """One per event loop and shared by all who wait in it; lives as long as one of them holds it."""

    _bridges: ClassVar[WeakValueDictionary[asyncio.AbstractEventLoop, LoopBridge]]
    _bridges = WeakValueDictionary()
    _guard: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def here(cls) -> LoopBridge:
        """The running loop's."""
        loop = asyncio.get_running_loop()
        with cls._guard:
            found = cls._bridges.get(loop)
            if found is None:
                found = cls._bridges[loop] = cls(loop)
            return found

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], Any]] = deque()
        self._woken = False

    def post(self, call: Callable[[], Any]) -> None:
        """Have it called in the loop, soon and in the order of posts; from any thread.

        Nothing happens where the loop is closed: whoever waited in it is gone.
        """
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._run)
            except RuntimeError:
                self._calls.clear()

    def _run(self) -> None:
        # Before the calls are looked at: a post that saw it set has already appended.
        self._woken = False
        # Only those that are there now: what comes meanwhile has its own turn of the loop, so
        # that a flood of tokens does not keep the loop from everything else.
        for _ in range(len(self._calls)):
            self._calls.popleft()()
