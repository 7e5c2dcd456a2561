"""What a process holds: threads, open files, children, names in the file system."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def held(folder: Path) -> set[str]:
    """As words that can be compared. `folder` is the temporary folder of this run alone."""
    threads = {
        f"thread {thread.name}"
        for thread in threading.enumerate()
        if not thread.name.startswith("asyncio_")  # the loop's pool: ends with the loop
    }
    files = {f"file {number} {target}" for number, target in _open_files()}
    children = {f"process {pid}" for pid in _children()}
    names = {f"name {path}" for path in folder.rglob("*")}
    return threads | files | children | names | {f"shm {name}" for name in _unmapped()}


def _open_files() -> list[tuple[str, str]]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append((number, os.readlink(f"/proc/self/fd/{number}")))
        except OSError:
            pass  # the descriptor of the listing itself
    return found


def _children() -> list[str]:
    return [
        pid
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
    ]


def _unmapped() -> set[str]:
    """Shared memory that nobody alive has mapped: what somebody left behind. Semaphores of other
    programs (`sem.mp-`) are left out: those that are in use are often mapped by nobody."""
    mapped = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            maps = Path(f"/proc/{pid}/maps").read_text()
        except OSError:
            continue  # it ended just now, or is not ours to see
        mapped |= {line.split("/dev/shm/")[1] for line in maps.splitlines() if "/dev/shm/" in line}
    names = {name for name in os.listdir("/dev/shm") if not name.startswith("sem.mp-")}
    return names - mapped
