"""The worker process: hosts one engine and answers one plane.

Started as `python -m sage_llm_ops.engines.host` with a `HostSpec` on stdin. Order of life: read the
spec, watch the lifeline, connect, prove the link, load the engine, say Hello, then step while there
is work and sleep in poll while there is none. Everything the engine does happens on the main thread.

The sockets have no high-water mark. With one, PUSH blocks when it is reached: a plane that stalls
for a moment would stop the engine in the middle of a batch, and dropping is not an option since
every token is sent once. What can pile up is bounded above: a plane gives a worker at most
`max_concurrency` nodes, and each of them makes at most `max_tokens` tokens.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq

from sage_llm_ops.comm_backend import here
from sage_llm_ops.engines import lifeline, sweeper, wire
from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.kv_events.frames import parts
from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.engines.steps import StepSampler
from sage_llm_ops.types.errors import EngineStartError, ProtocolError, SageLlmOpsError
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.wire import (
    PROTOCOL,
    CacheChanged,
    CancelNode,
    Done,
    Down,
    Drained,
    DrainWorker,
    Failed,
    Hello,
    Ping,
    Pong,
    StopWorker,
    Submit,
    Up,
)

Encode = Callable[[Sequence[Up]], bytes]

STATS_PERIOD_S = 1.0
CACHE_PERIOD_S = 0.05
"""How long changes of the prefix cache are gathered while there is work: what the plane takes in costs
it a dispatch, whatever is in it, and what a worker was just given is expected to be there."""
EXIT_SPEC, EXIT_START, EXIT_ENGINE = 64, 69, 70
"""Exit codes: the spec did not fit, the engine did not start, the engine broke."""


class HostSpec(msgspec.Struct, frozen=True):
    """What the plane tells its child: the whole of it, before anything is loaded."""

    protocol: int
    parent: int
    engine: str
    model: str
    options: dict[str, Any]
    directory: str
    up: str
    down: str
    temporary: str = ""
    """Its temporary folder; gone once it is."""


class Stopped(BaseException):
    """SIGTERM while the engine starts. Not an Exception: no engine code may swallow it."""


class Host:
    """The step loop between a link and an engine."""

    def __init__(
        self, engine: BaseEngine, up: Any, down: Any, wake: Any, encode: Encode = wire.encode_up
    ) -> None:
        self._engine, self._up, self._down, self._wake = engine, up, down, wake
        self._encode = encode
        self._poller = zmq.Poller()
        self._poller.register(down, zmq.POLLIN)
        self._poller.register(wake, zmq.POLLIN)
        self._running: set[NodeId] = set()
        self._stopping = False
        self._draining = False
        self._steps = 0
        self._stats_at = 0.0
        self._tells_cache = engine.capabilities.tells_cache
        self._cache_at = 0.0
        self._cache_said = 0
        self._sampler = StepSampler()

    def stop(self) -> None:
        """Leave `run` after the current step."""
        self._stopping = True

    def run(self) -> None:
        """Until told to stop; what the engine raises and does not survive comes out of here."""
        while not self._stopping:
            out: list[Up] = []
            if not self._engine.busy:
                self._poller.poll()
                self._drain_wake()
            self._commands(out)
            stepped = self._engine.busy and not self._stopping
            if stepped:
                self._step(out)
            if self._draining and not self._engine.busy:
                self._draining = False
                out.append(Drained())
            if stepped and self._tells_cache:
                self._cache(out)
            self._stats(out, stepped)
            if out:
                self._up.send(self._encode(out))

    def _drain_wake(self) -> None:
        try:
            while self._wake.recv(64):
                pass
        except BlockingIOError:
            pass

    def _commands(self, out: list[Up]) -> None:
        # Asked before each, since an exception for "nothing there" in every step costs more.
        while not self._stopping and self._down.get(zmq.EVENTS) & zmq.POLLIN:
            frame = self._down.recv(zmq.NOBLOCK)
            try:
                messages = wire.decode_down(frame)
            except ProtocolError as error:
                print(f"sage-llm-ops worker: ignored: {error}", file=sys.stderr, flush=True)
                continue
            for message in messages:
                self._command(message, out)

    def _command(self, message: Down, out: list[Up]) -> None:
        match message:
            case Submit(node=node):
                self._running.add(node.id)
                self._sampler.submitted(node)
                try:
                    self._engine.submit(node)
                except Exception as error:
                    self._running.discard(node.id)
                    traceback.print_exc()
                    out.append(Failed(node.id, "engine_failed", f"submit: {error!r}"))
            case CancelNode(node=node_id):
                self._engine.cancel(node_id)
            case DrainWorker():
                self._draining = True
            case Ping(token=token):
                out.append(Pong(token))
            case StopWorker():
                self._stopping = True

    def _step(self, out: list[Up]) -> None:
        began = time.perf_counter()
        try:
            events = self._engine.step()
        except Exception as error:
            if not self._engine.recover(error):
                raise
            traceback.print_exc()
            message = f"the engine failed in a step and was recovered: {error!r}"
            out.extend(Failed(node, "engine_failed", message) for node in sorted(self._running))
            self._running.clear()
            self._sampler.forget()
            return
        self._steps += 1
        self._sampler.stepped(events, (time.perf_counter() - began) * 1e3)
        for event in events:
            if isinstance(event, Done | Failed):
                self._running.discard(event.node)
        out.extend(events)

    def _cache(self, out: list[Up]) -> None:
        now = time.monotonic()
        if self._engine.busy and now - self._cache_at < CACHE_PERIOD_S:
            return
        self._cache_at = now
        changes = self._engine.cache_changes()
        for part in parts(changes) if changes else ():
            out.append(CacheChanged(self._cache_said, part))
            self._cache_said += 1

    def _stats(self, out: list[Up], stepped: bool) -> None:
        """About once a second while busy, and once when it becomes idle, so that nobody keeps
        believing in load that is gone."""
        if not stepped:
            return
        now = time.monotonic()
        if self._engine.busy and now - self._stats_at < STATS_PERIOD_S:
            return
        self._stats_at = now
        out.append(
            msgspec.structs.replace(
                self._engine.stats(),
                steps=self._steps,
                rss_mb=_rss_mb(),
                samples=self._sampler.take(),
            )
        )


def main(encode: Encode = wire.encode_up) -> int:
    """Entry of the child process; returns its exit code. `encode` is a seam for tests."""
    try:
        spec = read_spec(0)
    except (ProtocolError, OSError) as error:
        print(f"sage-llm-ops worker: {error}", file=sys.stderr)
        return EXIT_SPEC
    # Whatever the engine starts must not inherit the lifeline as its stdin.
    pipe, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    try:
        engine = make_engine(spec.engine, spec.options)
    except SageLlmOpsError as error:
        _report(error)
        return EXIT_START
    if engine.spawns:
        lifeline.guard(pipe, spec.directory)  # both fork, so before any thread
        sweeper.leave(spec.temporary)
    lifeline.watch(pipe, spec.directory)
    wake, waker = socket.socketpair()
    wake.setblocking(False)
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _raise_stopped)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the plane's to handle: it drains first
    context = zmq.Context(1)
    try:
        up, down = _connect(context, spec)
        engine.start()
        # What loading left behind stays: a full collection need not walk through it in every batch.
        gc.collect()
        gc.freeze()
        host = Host(engine, up, down, wake, encode)
        signal.signal(signal.SIGTERM, lambda *_: host.stop())
        up.send(wire.encode_up([_hello(spec, engine)]))
        host.run()
        return 0
    except Stopped:
        return 0
    except Exception as error:
        _report(error)
        return EXIT_START if isinstance(error, EngineStartError) else EXIT_ENGINE
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        engine.stop()
        context.destroy(linger=2000)


def read_spec(fd: int) -> HostSpec:
    """The spec is one line: the pipe stays open behind it, as the lifeline."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            raise ProtocolError(f"stdin ended after {len(line)} bytes of spec: the plane is gone")
        line += byte
    try:
        spec = msgspec.json.decode(line, type=HostSpec)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the spec does not decode: {error}") from error
    if spec.protocol != PROTOCOL:
        raise ProtocolError(
            f"the plane speaks protocol {spec.protocol}, this worker speaks {PROTOCOL}: "
            "install the same version of sage-llm-ops on both sides"
        )
    return spec


def _connect(context: zmq.Context[Any], spec: HostSpec) -> tuple[Any, Any]:
    up, down = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    for link in (up, down):
        link.set_hwm(0)
    # In this order: when the plane hears from `up`, `down` is connected as well.
    down.connect(spec.down)
    up.connect(spec.up)
    up.send(wire.LINK_UP)
    # The plane removes the paths before it answers: from here on nothing needs cleaning, and to be
    # killed without notice is safe.
    down.recv()
    lifeline.arm(spec.parent)
    return up, down


def _hello(spec: HostSpec, engine: BaseEngine) -> Hello:
    return Hello(
        protocol=PROTOCOL,
        engine=engine.name,
        engine_version=engine.version,
        model=engine.model or spec.model,
        tokenizer_hash=engine.tokenizer_hash,
        pid=os.getpid(),
        capabilities=engine.capabilities,
        place=here(),
    )


def _report(error: Exception) -> None:
    """The sentence last: the plane shows the tail of this log. A refusal of ours is all there is to say."""
    if error.__cause__ is not None or not isinstance(error, SageLlmOpsError):
        traceback.print_exc()
    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)


def _raise_stopped(signum: int, frame: object) -> None:
    raise Stopped


def _rss_mb() -> float:
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything of ours is closed; an ordinary exit spends seconds tearing torch down.
    os._exit(code)
