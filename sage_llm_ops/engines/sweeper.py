"""Removes what an engine with processes of its own leaves in the file system when it is killed.

vLLM's async core has named semaphores and shared memory in /dev/shm and sockets in the temporary
folder. Python's resource tracker is there to unlink the former once everybody is dead, but it is
a member of the group that is killed (and what it tracks is mapped by nobody just then, so that
/proc tells nothing of it). So the tracker is run here, by a process that was forked before
anything was loaded and has left the group: it sees the end of all that were registered with it,
unlinks what they left, and removes their temporary folder.
"""

from __future__ import annotations

import ctypes
import getpass
import os
import shutil
import signal
import tempfile
from multiprocessing import resource_tracker
from typing import Any

_PR_SET_NAME = 15


def leave() -> None:
    """Fork the sweeper, and make it the tracker and the owner of the temporary folder of this process
    and of all that it starts. Called before any thread exists, and after what must not hold the
    tracker's pipe has been forked."""
    cache = os.path.join(tempfile.gettempdir(), f"torchinductor_{_user()}")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)  # it would start cold each time
    folder = tempfile.mkdtemp(prefix="sllo-tmp-")
    end, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(pipe)
        _sweep(end, folder)
    os.close(end)
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd, tracker._pid = pipe, pid
    os.environ["TMPDIR"] = tempfile.tempdir = folder


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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())
