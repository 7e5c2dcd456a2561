"""Removes what an engine with processes of its own leaves in the file system when it is killed.

vLLM's async core has named semaphores and shared memory in /dev/shm and sockets in the temporary
folder. Python's resource tracker is there to unlink the former once everybody is dead, but it is
a member of the group that is killed (and what it tracks is mapped by nobody just then, so that
/proc tells nothing of it). So the tracker is run here, by a process that was forked before
anything was loaded and has left the group: it sees the end of all that were registered with it,
unlinks what they left, and removes their temporary folder, which the plane does as well, if it lives.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
from multiprocessing import resource_tracker
from typing import Any

_PR_SET_NAME = 15


def leave(folder: str) -> None:
    """Fork the sweeper: the tracker of this process and of all that it starts, and the end of their
    temporary `folder`. Called before any thread exists, and after what must not hold the tracker's
    pipe has been forked."""
    end, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(pipe)
        _sweep(end, folder)
    os.close(end)
    config: Any = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    config["semprefix"] = "/sllo"  # of its semaphores, and by inheritance of its processes'
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd, tracker._pid = pipe, pid


def _sweep(end: int, folder: str) -> None:
    """Until the last holder of the pipe is dead."""
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, b"sllo-sweeper", 0, 0, 0)
        resource_tracker.main(end)  # ignores SIGTERM and SIGINT
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)
