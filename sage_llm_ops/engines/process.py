"""A worker in a child process: the plane's side."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_llm_ops.engines import wire
from sage_llm_ops.engines.base import Sign, Uplink
from sage_llm_ops.engines.child import Child, child_environment, entry
from sage_llm_ops.engines.host import HostSpec
from sage_llm_ops.engines.hub import Hub
from sage_llm_ops.types.errors import IntegrityError, ProtocolError
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import (
    PROTOCOL,
    CacheChanged,
    CancelNode,
    Drained,
    DrainWorker,
    EngineEvent,
    Hello,
    Ping,
    Pong,
    Stats,
    StopWorker,
    Submit,
    Up,
)

START_TIMEOUT_S = 180.0


class ProcessWorker:
    """Implements `Worker` over a child process, ZeroMQ ipc between them.

    `python` is the interpreter of another environment, which has sage-llm-ops as well. `command`
    replaces the child's command line (a test seam). `log` is where the child's output goes;
    without it, into an anonymous file that lives as long as the child.
    """

    def __init__(
        self,
        instance: ExecutionInstance,
        uplink: Uplink,
        *,
        engine: str,
        options: dict[str, Any] | None = None,
        tokenizer_hash: str = "",
        log: str | os.PathLike[str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        environment: dict[str, str] | None = None,
        python: str = "",
        command: Sequence[str] = (),
        hub: Hub | None = None,
    ) -> None:
        self.id = WorkerId(instance.instance_id)
        self.instance = instance
        self.incarnation = 0
        self.start_timeout_s = start_timeout_s
        self.hello: Hello | None = None
        self.last_pong: float | None = None
        """When (monotonic) its step loop last answered a ping."""
        self._uplink = uplink
        self._expected = wire.Expected(
            "" if ":" in engine else engine, instance.model_name, tokenizer_hash
        )
        self._spec = HostSpec(
            protocol=PROTOCOL,
            parent=0,
            engine=engine,
            model=instance.model_name,
            options=dict(options or {}),
            directory="",
            up="",
            down="",
        )
        self._log = None if log is None else Path(log)
        self._environment = dict(environment or {})
        self._python = python
        self._command = tuple(command) or entry(python)
        self._hub = hub
        self._child: Child | None = None
        self._asked = self._answered = 0
        """Numbers of the last question and of the last answer."""
        self._cpu_s = 0.0
        """Of the process when it was looked at last."""
        self._lock = threading.Lock()
        self._drained = threading.Event()

    # Worker

    def start(self) -> None:
        with self._lock:
            if self._child is not None:
                raise IntegrityError(f"worker {self.id!r} was started while it runs")
            self.incarnation += 1
            self.hello = self.last_pong = None
            self._answered = self._asked
            self._child = Child(
                self.incarnation,
                self._spec,
                log=self._log,
                env=child_environment(dict(os.environ), self._environment, elsewhere=self._python),
                command=self._command,
            )
            child = self._child
        (self._hub or Hub.shared()).add(child, self)

    def submit(self, node: PlanNode) -> bool:
        return self._send(Submit(node))

    def cancel(self, node: NodeId) -> None:
        self._send(CancelNode(node))

    def stop(self, timeout_s: float) -> None:
        if (self._hub or Hub.shared()).inside:
            raise IntegrityError(f"worker {self.id!r}: stop() waits for the hub, so not from it")
        with self._lock:
            child = self._child
            if child is None:
                return
            child.stopping = True
        # While it loads it reads no commands, and there is nothing in it that must end in order.
        if not (child.up and child.send([StopWorker()])):
            child.signal(signal.SIGTERM)
        if not child.gone.wait(timeout_s):
            child.signal(signal.SIGKILL)
            child.gone.wait()

    def kill(self, reason: str = "killed on request") -> None:
        child = self._child
        if child is not None:
            child.killed = True
            child.reason = child.reason or reason
            child.signal(signal.SIGKILL)

    def probe(self) -> Sign | None:
        """Its step loop answers between two engine steps. A step may take minutes (a long prompt on a
        CPU) and must not look like a process that was stopped: that one uses no processor."""
        child = self._child
        if child is None or not child.up or child.stopping:
            return None
        before, self._cpu_s = self._cpu_s, _cpu_s(child.pid)
        if self._answered >= self._asked:
            self._asked += 1
            self._send(Ping(self._asked))
            return Sign.ANSWERED
        return Sign.WORKING if self._cpu_s > before else Sign.SILENT

    def describe(self) -> dict[str, Any]:
        child = self._child
        state = "down" if child is None else "up" if child.up else "starting"
        if child is not None and child.stopping:
            state = "stopping"
        return {
            "id": self.id,
            "placement": "process",
            "engine": self._spec.engine,
            "state": state,
            "incarnation": self.incarnation,
            "pid": None if child is None else child.pid,
            "log": str(self._log or "") if child is None else child.log_name(),
            "silent_s": None if self.last_pong is None else time.monotonic() - self.last_pong,
        }

    # beyond the protocol

    def drain(self, timeout_s: float) -> bool:
        """Whether everything submitted so far ended in time. Submit nothing meanwhile."""
        child = self._child
        self._drained.clear()
        if not (self._send(DrainWorker()) and self._drained.wait(timeout_s)):
            return False
        return self._child is child  # its end wakes us too

    def _send(self, message: Any) -> bool:
        child = self._child
        return child is not None and child.up and child.send([message])

    # Owner: from the hub's thread

    def received(self, child: Child, messages: list[Up]) -> None:
        if not messages:
            return
        if not child.up:
            messages = self._handshake(child, messages)
        events: list[EngineEvent] = []
        for message in messages:
            match message:
                case Stats():
                    self._uplink.on_stats(self.id, message)
                case CacheChanged():
                    self._uplink.on_cache(self.id, child.incarnation, message)
                case Pong(token=token):
                    self._answered, self.last_pong = token, time.monotonic()
                case Drained():
                    self._drained.set()
                case Hello():
                    raise ProtocolError("a second Hello from a worker that is up")
                case _:
                    events.append(message)
        if events:
            self._uplink.on_events(self.id, child.incarnation, events)

    def _handshake(self, child: Child, messages: list[Up]) -> list[Up]:
        hello, *rest = messages
        if not isinstance(hello, Hello):
            raise ProtocolError(f"handshake: expected Hello first, got {type(hello).__name__}")
        refused = wire.refusal(hello, self._expected)
        if refused:
            raise ProtocolError(refused)
        self.hello = hello
        child.up = True
        if not child.stopping:
            self._uplink.on_up(self.id, child.incarnation, hello)
        return rest

    def ended(self, child: Child, reason: str) -> None:
        with self._lock:
            self._child = None
        self._drained.set()
        if child.stopping:
            return
        verb = "ended" if child.up else "did not start"
        tail = child.tail()
        text = f"worker {self.id!r} {verb}: {reason}"
        self._uplink.on_down(
            self.id, child.incarnation, f"{text}; its log ends:\n{tail}" if tail else text
        )


def _cpu_s(pid: int | None) -> float:
    """Processor seconds a process has used; 0 where nobody can say."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0
