"""The one reader thread: polls every worker process's socket and pidfd, and tells the uplinks.

One thread for all, not one per worker: the uplink's events then come from a single thread, a fleet
of forty workers costs one stack, and everything that spawns does so from a thread that outlives its
children (see `lifeline`). It starts with the first child and ends with the last.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import zmq

from sage_llm_ops.engines.child import Child
from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.wire import Up

log = logging.getLogger(__name__)

FRAMES_A_TURN = 64
"""Frames read from one worker before the others get their turn."""


class Owner(Protocol):
    """Who started a child; called from the hub's thread alone."""

    start_timeout_s: float

    def received(self, child: Child, messages: list[Up]) -> None:
        """One frame. Raises `ProtocolError` where it does not fit: the child is then killed."""

    def ended(self, child: Child, reason: str) -> None:
        """The last call about this child."""


class Hub:
    """Use `Hub.shared()`; a private one only in a test."""

    _shared: ClassVar[Hub | None] = None
    _shared_pid: ClassVar[int] = 0
    _guard: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def shared(cls) -> Hub:
        """This process's hub. A forked process gets its own: sockets do not survive a fork."""
        with cls._guard:
            if cls._shared is None or cls._shared_pid != os.getpid():
                cls._shared, cls._shared_pid = Hub(), os.getpid()
            return cls._shared

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[tuple[Child, Owner]] = deque()
        self._thread: threading.Thread | None = None
        self._newest: threading.Thread | None = None
        self._waker: socket.socket | None = None

    def add(self, child: Child, owner: Owner) -> None:
        """Start it soon, from the hub's thread; `owner` hears the rest."""
        with self._lock:
            self._calls.append((child, owner))
            if self._thread is None:
                wake, self._waker = socket.socketpair()
                self._thread = threading.Thread(
                    target=self._run, args=(wake, self._waker), name="worker-hub", daemon=True
                )
                self._newest = self._thread
                self._thread.start()
            elif self._waker is not None:
                self._waker.send(b".")

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end, which comes after that of its last child."""
        thread = self._newest
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    @property
    def inside(self) -> bool:
        """Whether the caller is on the hub's thread."""
        return threading.current_thread() is self._thread

    def _run(self, wake: socket.socket, waker: socket.socket) -> None:
        context: zmq.Context[Any] = zmq.Context(1)
        loop = _Loop(context, wake)
        try:
            while True:
                with self._lock:
                    fresh: list[tuple[Child, Owner]] = list(self._calls)
                    self._calls.clear()
                    if not fresh and not loop.children:
                        # Under the lock: whoever adds next finds no thread and starts one.
                        self._thread, self._waker = None, None
                        return
                for child, owner in fresh:
                    loop.open(child, owner)
                if loop.children:
                    loop.turn()
        except Exception as error:
            log.exception("the worker hub failed: every worker process is ended")
            with self._lock:
                self._thread, self._waker = None, None
            loop.end_all(f"the worker hub failed: {error!r}")
        finally:
            context.destroy(0)
            wake.close()
            waker.close()


class _Loop:
    """What the hub's thread owns."""

    def __init__(self, context: zmq.Context[Any], wake: socket.socket) -> None:
        self._context, self._wake = context, wake
        self._poller = zmq.Poller()
        self._poller.register(wake, zmq.POLLIN)
        self.children: dict[Child, tuple[Owner, float]] = {}

    def open(self, child: Child, owner: Owner) -> None:
        self.children[child] = (owner, time.monotonic() + owner.start_timeout_s)
        if child.unwanted():
            self._end(child, child.reason)
            return
        try:
            child.open(self._context)
        except (OSError, zmq.ZMQError) as error:
            self._end(child, f"could not start: {error}")
            return
        self._poller.register(child.socket, zmq.POLLIN)
        self._poller.register(child.pidfd, zmq.POLLIN)
        if child.unwanted():  # told so while it was being spawned
            child.signal(signal.SIGKILL)

    def turn(self) -> None:
        ready = dict(self._poller.poll(self._patience_ms()))
        if self._wake.fileno() in ready:
            self._wake.recv(4096)
        now = time.monotonic()
        for child, (owner, deadline) in list(self.children.items()):
            if child.socket in ready:
                self._read(child, owner, FRAMES_A_TURN)
            if child.pidfd in ready:
                child.signal(signal.SIGKILL)  # what it started may hold its socket open
                child.settle()
                self._read(child, owner, None)
                self._end(child, child.reason)
            elif not child.up and now >= deadline and not child.reason:
                self._kill(child, f"did not come up within {owner.start_timeout_s:g} s")

    def end_all(self, reason: str) -> None:
        for child in list(self.children):
            self._end(child, reason)

    def _patience_ms(self) -> int | None:
        starting = [
            at for child, (_, at) in self.children.items() if not (child.up or child.reason)
        ]
        if not starting:
            return None
        return max(0, int((min(starting) - time.monotonic()) * 1000) + 1)

    def _read(self, child: Child, owner: Owner, limit: int | None) -> None:
        """Up to `limit` frames. Once a child is condemned, what it says is read and dropped."""
        while limit is None or limit > 0:
            limit = None if limit is None else limit - 1
            try:
                messages = child.receive()
                if messages is None:
                    return
                if child.reason and not child.killed:
                    continue
                if not child.linked:
                    child.link()
                _guarded(owner.received, child, messages)
            except ProtocolError as error:
                self._kill(child, str(error))
            except zmq.Again:
                self._kill(child, "connected its sockets only half")

    def _kill(self, child: Child, reason: str) -> None:
        child.reason = child.reason or reason
        child.signal(signal.SIGKILL)

    def _end(self, child: Child, reason: str) -> None:
        owner, _ = self.children.pop(child)
        for thing in (child.socket, child.pidfd):
            if thing in self._poller:
                self._poller.unregister(thing)
        code = child.close()
        if not reason:
            reason = _ending(code)
        _guarded(owner.ended, child, reason)
        child.close_log()
        child.gone.set()


def _ending(code: int | None) -> str:
    if code is None:
        return "ended before it started"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exited with code {code}"


def _guarded(call: Callable[..., None], *args: Any) -> None:
    """An owner's defect must not take every other worker down with it."""
    try:
        call(*args)
    except ProtocolError:
        raise
    except Exception:
        log.exception("a worker's owner raised; its event is lost")
