"""A worker process must not outlive the process that started it, whatever ends that one.

Two mechanisms, because each has a hole. `PR_SET_PDEATHSIG` is certain (the kernel kills, even while
the engine sits in C code holding the GIL), but it is Linux only and fires when the *thread* that
spawned us ends: the plane therefore spawns from its hub thread, which outlives its children. The
lifeline is a pipe, our stdin, that only the plane holds open: its end means the plane is gone. It
works everywhere, can clean up, and covers the time before the first mechanism is armed.

Neither helps against kill -9 where the engine has processes of its own (vLLM's EngineCore and its
workers were still there 15 s after their parent was killed: docs/adr/0002). For such an
engine a guard is forked before anything is loaded: a process that does nothing but wait for the end
of the plane or of the worker, and then kills the whole group.

Refused: polling `getppid()`, which notices late and costs wake-ups for ever.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import sys
import threading

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def watch(fd: int, directory: str) -> None:
    """From now on the end of `fd` ends this process group and removes the socket directory."""
    threading.Thread(target=_wait, args=(fd, directory), name="lifeline", daemon=True).start()


def arm(parent: int) -> None:
    """From now on the death of the spawning thread kills this process, on Linux.

    Called once the sockets' paths are gone: a process that is killed cannot remove them.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before prctl took effect; then nobody will signal us.
    if os.getppid() != parent:
        end()


def guard(fd: int, directory: str) -> None:
    """Leave a process behind that ends this group with the plane or with this process.

    Called before any thread exists: only then is it safe to fork and go on in Python.
    """
    host = os.getpid()
    watched = os.pidfd_open(host)
    if os.fork():
        os.close(watched)
        return
    try:
        # What is sent to the group in order to end the worker must not end its guard first.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"sllo-guard", 0, 0, 0)
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.register(fd, select.POLLIN)
        while not any(_over(ready, watched) for ready, _ in poll.poll()):
            pass
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.killpg(host, signal.SIGKILL)
        os._exit(0)


def _over(ready: int, watched: int) -> bool:
    return ready == watched or not os.read(ready, 4096)


def end() -> None:
    """Kill this process and those it started (they share its group)."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(fd: int, directory: str) -> None:
    try:
        while os.read(fd, 4096):
            pass  # the plane writes nothing after the spec; whatever comes is not our concern
    except OSError:
        pass  # a broken lifeline is as good as an ended one
    shutil.rmtree(directory, ignore_errors=True)
    end()
