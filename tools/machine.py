"""What this machine offers, measured once and without starting anything but `nvidia-smi`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

GB = 10**9
SHM = Path("/dev/shm")
CGROUPS = (  # limit, in use, and the part of it that the kernel gives back on demand
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Machine:
    system: str
    arch: str
    # (0, 0) where the C library is not glibc.
    glibc: tuple[int, int]
    disk_free: int
    # None where the system does not tell (not Linux): then it is not checked.
    memory_available: int | None
    # Empty if /dev/shm can be written, else why not.
    shm_fault: str
    # First line of `nvidia-smi -L`; empty without a working GPU.
    gpu: str


def measure(root: Path) -> Machine:
    return Machine(
        system=platform.system(),
        arch={"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine()),
        glibc=_glibc(),
        disk_free=shutil.disk_usage(str(root)).free,
        memory_available=memory_available(Path("/proc/meminfo"), Path("/sys/fs/cgroup")),
        shm_fault=shm_fault(SHM),
        gpu=_gpu(),
    )


def _glibc() -> tuple[int, int]:
    name, version = platform.libc_ver()
    parts = version.split(".")
    if name != "glibc" or len(parts) < 2:
        return (0, 0)
    return (int(parts[0]), int(parts[1]))


def memory_available(meminfo: Path, cgroup: Path) -> int | None:
    """The smaller of what the kernel and a container's limit leave: inside one, /proc shows the host's."""
    free = None
    for line in _text(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    if free is None:
        return None
    for limit_name, used_name, reclaim_name in CGROUPS:
        limit, used = _text(cgroup / limit_name), _text(cgroup / used_name)
        if limit.isdigit() and used.isdigit():
            stat = _text((cgroup / limit_name).parent / "memory.stat")
            free = min(free, int(limit) - int(used) + _field(stat, reclaim_name))
    return free


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.split(" ")[0] == name:
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def shm_fault(shm: Path) -> str:
    if not shm.is_dir():
        return "missing"
    try:
        with tempfile.TemporaryFile(dir=str(shm)) as file:
            file.write(b"x")
    except OSError as error:
        return "not writable (%s)" % (os.strerror(error.errno) if error.errno else error)
    return ""


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        out = subprocess.run(
            ["nvidia-smi", "-L"],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = out.stdout.decode("utf-8", "replace").splitlines()
    return lines[0] if out.returncode == 0 and lines and lines[0].startswith("GPU") else ""
