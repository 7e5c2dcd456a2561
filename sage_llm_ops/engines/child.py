"""One incarnation of a worker process, seen from the plane: its process, sockets, directory, log.

All methods are the hub thread's, except those under "any thread".
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import zmq

import sage_llm_ops
from sage_llm_ops.engines import wire
from sage_llm_ops.engines.host import HostSpec
from sage_llm_ops.types.wire import PROTOCOL, Down, Up

TAIL_LINES = 15
_SUN_PATH = 107
"""Longest path that fits the kernel's socket address."""


def entry(python: str = "", module: str = "sage_llm_ops.engines.host") -> tuple[str, ...]:
    """Command line of a worker under our interpreter, or under another environment's."""
    return python or sys.executable, "-m", module


def child_environment(
    base: dict[str, str], extra: dict[str, str], *, elsewhere: object = False
) -> dict[str, str]:
    """What a worker process sees: ours, the few settings engines need, then the caller's.

    `elsewhere`: it runs in another environment, which has its own copy of us. Our place on its path
    could be a whole site-packages, which would hide its own.
    """
    env = dict(base)
    env.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override kv_cache_memory_bytes, in whole GiB
    # vLLM imports 5,700 modules: 7 s with their bytecode, 16 s without (two cores), and a worker is
    # started again and again. Whoever forbids bytecode beside the sources (many container images
    # do) gets it in the cache folder instead.
    if env.pop("PYTHONDONTWRITEBYTECODE", ""):
        cache = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        env.setdefault("PYTHONPYCACHEPREFIX", str(cache / "sage-llm-ops" / "bytecode"))
    # Its temporary folder ends with it; this cache in it must not.
    env.setdefault(
        "TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}"
    )
    env.setdefault("HF_HUB_OFFLINE", "1")  # a worker must not wait for a hub that is not there
    env.update(
        OMP_NUM_THREADS="1",  # more threads than cores cost a factor of ten a step on a CPU
        PYTHONHASHSEED="0",  # block hashes must be equal in all workers
        PYTHONUNBUFFERED="1",  # else the log's last lines die with the process
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL=base.get("VLLM_LOGGING_LEVEL", "WARNING"),
    )
    if not elsewhere:
        root = str(Path(sage_llm_ops.__file__).parent.parent)
        path = (root, base.get("PYTHONPATH", ""))
        env["PYTHONPATH"] = os.pathsep.join(part for part in path if part)
    env.update(extra)
    return env


class Child:
    """Created by `ProcessWorker.start`, opened and closed by the hub."""

    def __init__(
        self,
        incarnation: int,
        spec: HostSpec,
        *,
        log: Path | None,
        env: dict[str, str],
        command: Sequence[str],
    ) -> None:
        self.incarnation = incarnation
        self.linked = False
        self.up = False
        self.reason = ""
        """Why we killed it; empty while it lives, or where it ended by itself."""
        self.killed = False
        """By request, as a fault would: what it said before still counts."""
        self.stopping = False
        self.gone = threading.Event()
        """Set when everything of it is released and, where due, reported."""
        self.pid: int | None = None
        self.pidfd = -1
        self.socket: Any = None
        self.log_path = log
        self._spec, self._command, self._env = spec, command, env
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._log_start = 0
        self._down: Any = None
        self._monitor: Any = None
        self._directory = self._temporary = ""
        self._lock = threading.Lock()
        """Guards `_down`, which any thread may write to, and `_process` against reuse of its pid."""

    # any thread

    def unwanted(self) -> bool:
        """Whether somebody asked for its end."""
        return self.stopping or bool(self.reason)

    def send(self, messages: Sequence[Down]) -> bool:
        """False where there is nobody to read it."""
        frame = wire.encode_down(messages)
        with self._lock:
            if self._down is None or self._process is None or self.reason:
                return False
            try:
                self._down.send(frame, zmq.NOBLOCK)
            except zmq.Again:
                return False  # no high-water mark, so: it is not connected
            return True

    def signal(self, number: signal.Signals) -> None:
        """To the whole group: what the engine started ends with it."""
        with self._lock:
            if self._process is None:
                return
            try:
                os.killpg(self._process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass  # it ended, or has not become a group leader yet

    def tail(self) -> str:
        """The last lines it wrote."""
        with self._lock:
            if self._log is None:
                return ""
            fd = self._log.fileno()
            # Not what an earlier incarnation wrote to the same file.
            start = max(self._log_start, os.fstat(fd).st_size - 16384)
            text = os.pread(fd, 16384, start).decode(errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])

    def log_name(self) -> str:
        """Where a person can read its log while it lives."""
        if self.log_path is not None:
            return str(self.log_path)
        with self._lock:
            return "" if self._log is None else f"/proc/{os.getpid()}/fd/{self._log.fileno()}"

    # the hub's thread

    def open(self, context: zmq.Context[Any]) -> None:
        """Bind the sockets and start the process; raises OSError or zmq.ZMQError."""
        self._directory = private_directory()
        self._temporary = tempfile.mkdtemp(prefix="sllo-tmp-")
        up, down = (f"ipc://{self._directory}/{name}" for name in ("u", "d"))
        self.socket = context.socket(zmq.PULL)
        sender = self._down = context.socket(zmq.PUSH)  # nobody sends before there is a process
        for link in (self.socket, sender):
            link.set_hwm(0)  # engines/host.py says why
            link.linger = 0
        sender.sndtimeo = 2000
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.socket.bind(up)
        sender.bind(down)
        if self.log_path is None:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        else:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            self._log = open(self.log_path, "a+b")  # noqa: SIM115
            self._log_start = os.fstat(self._log.fileno()).st_size
        spec = msgspec.structs.replace(
            self._spec,
            protocol=PROTOCOL,
            parent=os.getpid(),
            directory=self._directory,
            up=up,
            down=down,
            temporary=self._temporary,
        )
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env={**self._env, "TMPDIR": self._temporary},
            start_new_session=True,  # one group to signal, and Ctrl-C in a terminal reaches us alone
        )
        with self._lock:
            self._process = process
        self.pid = process.pid
        self.pidfd = os.pidfd_open(process.pid)
        assert process.stdin is not None
        try:
            process.stdin.write(msgspec.json.encode(spec) + b"\n")
            process.stdin.flush()  # and it stays open: the child's lifeline
        except BrokenPipeError:
            pass  # it died at once; its pidfd says so

    def receive(self) -> list[Up] | None:
        """The next frame's messages, None where there is none now; raises `ProtocolError`."""
        try:
            frame: bytes = self.socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None
        return wire.decode_up(frame)

    def link(self) -> None:
        """Both sockets are connected: answer, and remove the paths, which nobody needs any more.

        The child connects `down` before `up`, so both connections exist; ours may still be shaking
        hands, hence a send that waits a moment. Raises zmq.Again where nobody comes.
        """
        self._remove_directory()
        with self._lock:
            self._down.send(wire.LINK_UP)
        self.linked = True

    def settle(self) -> None:
        """After its death: wait until what its last words left in the kernel has been read."""
        if self.linked and self._monitor is not None:
            self._monitor.poll(1000)

    def close(self) -> int | None:
        """Release everything; returns the exit code, negative for a signal."""
        code: int | None = None
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                # What the engine started may outlive it. The zombie still holds the group's id.
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
                process.kill()
                code = process.wait()
                if process.stdin is not None:
                    try:
                        process.stdin.close()
                    except BrokenPipeError:
                        pass
            if self._down is not None:
                self._down.close(0)
                self._down = None
        if self.socket is not None:
            self.socket.disable_monitor()
            self.socket.close(0)
        if self._monitor is not None:
            self._monitor.close(0)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self._remove_directory()
        shutil.rmtree(self._temporary, ignore_errors=True)
        return code

    def close_log(self) -> None:
        """Last: the tail is wanted for the report."""
        with self._lock:
            if self._log is not None:
                self._log.close()
                self._log = None

    def _remove_directory(self) -> None:
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = ""


def private_directory() -> str:
    """A new 0700 directory whose socket paths fit the kernel's limit."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if base and os.access(base, os.W_OK) and len(base.encode()) + 24 <= _SUN_PATH:
            return tempfile.mkdtemp(prefix="sllo-", dir=base)
    raise OSError(
        f"no writable directory with a path below {_SUN_PATH - 24} bytes for ipc sockets: "
        "set XDG_RUNTIME_DIR or TMPDIR to a short one"
    )
