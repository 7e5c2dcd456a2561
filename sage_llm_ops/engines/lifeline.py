"""A worker process must not outlive the process that started it, whatever ends that one.

Two mechanisms, because each has a hole. `PR_SET_PDEATHSIG` is certain (the kernel kills, even while
the engine sits in C code holding the GIL), but it is Linux only and fires when the *thread* that
spawned us ends: the plane therefore spawns from its hub thread, which outlives its children. The
lifeline is a pipe, our stdin, that only the plane holds open: its end means the plane is gone. It
works everywhere, can clean up, and covers the time before the first mechanism is armed.

Refused: polling `getppid()`, which notices late and costs wake-ups for ever.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def watch(fd: int, directory: str) -> None:
    """From now on the end of `fd` ends this process group and removes the socket directory."""
    threading.Thread(target=_wait, args=(fd, directory), name="lifeline", daemon=True).start()


def arm(parent: int) -> None:
    """From now on the death of the spawning thread kills this process, on Linux.

    Called once the sockets' paths are gone: a process that is killed cannot remove them.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before prctl took effect; then nobody will signal us.
    if os.getppid() != parent:
        end()


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
