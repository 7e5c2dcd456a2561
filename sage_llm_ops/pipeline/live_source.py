"""The live source: the only way into a running graph.

Completions go before due timers, and those before arrivals, so that room is given back before it
is asked for; after `FAIR_AFTER` others in a row a waiting arrival goes first, so that arrivals
cannot starve. `post` may be called from any thread and wakes the source only when it sleeps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from sage.runtime import StopSignal

from sage_llm_ops.pipeline.loop_bridge import hold, release
from sage_llm_ops.pipeline.timers import TimerHeap
from sage_llm_ops.types.events import Arrive, Event

FAIR_AFTER = 64
WAKE_AFTER = 8
"""Events after which the loops that wait for what they ended are woken, if there are more events:
fewer wake-ups cost less, and nobody waits longer than so many dispatches."""
IDLE_S = 0.2
"""Longest sleep: SAGE looks for a stop only between two calls of the source."""


class LiveSource(TimerHeap):
    """Condition variable, two deques and a timer heap."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.record: Callable[[Event], None] | None = None
        """Called with every event, stamped, before the graph sees it."""
        self._cond = threading.Condition(threading.Lock())
        self._asleep = False
        self._arrivals: deque[Event] = deque()
        self._others: deque[Event] = deque()
        self._in_a_row = 0
        self._seq = 0
        self._stop = False
        self._unwoken = 0
        self.gathers = False
        """Whether the thread that calls is SAGE's own, and may keep event loops waiting for a few
        dispatches (see `loop_bridge`)."""
        self.thread: threading.Thread | None = None
        """SAGE's thread, once it has called; the watchdog looks at it."""
        self.ended = threading.Event()
        """Set when the source has said its last word; no dispatch runs any more."""
        self.busy_since: float | None = None
        """Clock when the dispatch now running began; None between two."""
        self.idle_hook: Callable[[], None] | None = None
        """Called on the source's thread when there is nothing to do, at most every `IDLE_S`: under
        load there is nothing to do a thousand times a second."""
        self._hook_due = 0.0
        self._awaited: deque[tuple[Event, threading.Event]] = deque()
        """Events whose dispatch somebody waits for; rare."""

    def inform(self, event: Event) -> None:
        """Let in what changes no decision: nobody is woken for it, it comes along with the next
        event or the next idle turn. A wake-up for each would cost more than what it tells."""
        self._others.append(event)

    def post(self, event: Event, *, behind_arrivals: bool = False) -> None:
        """Let an event in. The order of posts from one thread is kept within its class;
        `behind_arrivals` puts it into that of the arrivals."""
        if behind_arrivals or event.__class__ is Arrive:
            self._arrivals.append(event)
        else:
            self._others.append(event)
        if self._asleep:
            with self._cond:
                self._cond.notify()

    def post_and_wait(self, event: Event, timeout_s: float) -> bool:
        """`post`, and return once its dispatch has ended: whatever was decided before it has been
        handed out. False at the time-out. Not from the source's own thread."""
        over = threading.Event()
        self._awaited.append((event, over))
        self.post(event)
        return over.wait(timeout_s)

    def wait_ended(self, timeout_s: float) -> bool:
        """Whether no dispatch runs or will: it said its last word, or its thread died."""
        dead = self.thread is not None and not self.thread.is_alive()
        return dead or self.ended.wait(timeout_s)

    def stop(self) -> None:
        """End the source after what is already posted."""
        self._stop = True
        with self._cond:
            self._cond.notify()

    def __call__(self) -> Any:
        """SAGE's poll: an event, None after an idle while, or the stop signal."""
        self.busy_since = None
        if self._awaited:
            self._tell_awaited()
        if self.thread is None:
            self.thread = threading.current_thread()
        now = self.clock()
        event = self._take(now)
        self._unwoken += 1
        if event is None or self._unwoken >= WAKE_AFTER:
            self._unwoken = 0
            release()
            if self.gathers and not self._stop:
                hold()
        if event is None:
            if self._stop:
                self.ended.set()
                return StopSignal("stop")
            if self.idle_hook is not None and now >= self._hook_due:
                self._hook_due = now + IDLE_S
                self.idle_hook()
            self._sleep()
            now = self.clock()
            event = self._take(now)
            if event is None:
                return None
        self._seq += 1
        event.seq, event.now = self._seq, now
        if event.__class__ is Arrive:
            event.request.arrived = now
        if self.record is not None:
            self.record(event)
        self.busy_since = now
        return event

    def backlog(self) -> int:
        """Events that wait to be taken."""
        return len(self._arrivals) + len(self._others)

    def _take(self, now: float) -> Event | None:
        if self._arrivals and self._in_a_row >= FAIR_AFTER:
            self._in_a_row = 0
            return self._arrivals.popleft()
        if self._others:
            self._in_a_row += 1
            return self._others.popleft()
        due = self.next_at()
        if due is not None and due <= now:
            self._in_a_row += 1
            return self.pop()
        if self._arrivals:
            self._in_a_row = 0
            return self._arrivals.popleft()
        return None

    def _tell_awaited(self) -> None:
        """Between two dispatches: an event that has its number has been dispatched."""
        for entry in list(self._awaited):
            event, over = entry
            if event.seq:
                self._awaited.remove(entry)
                over.set()

    def _sleep(self) -> None:
        """Until a post, the next timer, or `IDLE_S`.

        `_asleep` is set before the deques are looked at again: a post that did not see it set has
        already appended, and is found here.
        """
        with self._cond:
            self._asleep = True
            if not (self._others or self._arrivals or self._stop):
                due = self.next_at()
                wait = IDLE_S if due is None else min(IDLE_S, due - self.clock())
                if wait > 0:
                    self._cond.wait(wait)
            self._asleep = False
