"""From the threads that make tokens into the event loops that read them.

`call_soon_threadsafe` writes to the loop's wake-up socket every time: a system call on the thread
that serves all requests, and a turn of the loop for each token. The bridge of a loop gathers
what comes until the loop gets round to it, and wakes it once.

That one call gives up the GIL, and the loop then runs with the first token of an engine's step
while the others wait for its turn to end. So a thread that is about to post several `hold`s the
wake-ups back and `release`s them when it is done.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, final
from weakref import WeakValueDictionary

_thread = threading.local()


def hold() -> bool:
    """Keep this thread from waking loops until `release`; False where it is kept from it already,
    and then the `release` belongs to whoever holds."""
    if getattr(_thread, "held", None) is not None:
        return False
    _thread.held = []
    return True


def release() -> None:
    """Wake the loops that this thread has posted to since `hold`."""
    held: list[LoopBridge] | None = getattr(_thread, "held", None)
    _thread.held = None
    for bridge in held or ():
        bridge.wake()


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

    @classmethod
    def wake_all(cls) -> None:
        """Wake every loop that has something to do: for when a thread died holding its wake-ups."""
        with cls._guard:
            bridges = list(cls._bridges.values())
        for bridge in bridges:
            bridge.wake()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[Callable[[], Any]] = deque()
        self._woken = False

    def post(self, call: Callable[[], Any]) -> None:
        """Have it called in the loop, soon and in the order of posts; from any thread.

        Nothing happens where the loop is closed: whoever waited in it is gone.
        """
        self._calls.append(call)
        if self._woken:
            return
        held: list[LoopBridge] | None = getattr(_thread, "held", None)
        if held is None:
            self.wake()
        elif self not in held:
            # Not yet `_woken`: should this thread never come to `release`, the next post wakes.
            held.append(self)

    def wake(self) -> None:
        """Have the loop look at the calls, unless it is about to."""
        if self._woken or not self._calls:
            return
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
