"""Where a process and its GPUs stand, from the outside in: host/numa0/pci0000:3a/0000:3b:00.0.

Two places are as near as the levels that they share. What the machine does not tell is left out, so a
place is never a guess: without a GPU it ends at the NUMA node of the CPUs the process may run on, and
with several nodes at the host. The parsing is pure; `Machine` reads Linux's sysfs, `gpus` asks NVML
where `pynvml` is installed.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, final

_ROOT = re.compile(r"pci[0-9a-f]{4}:[0-9a-f]{2}")


class GPU(NamedTuple):
    """As NVML names it."""

    uuid: str
    bus_id: str
    """Domain of eight digits, capitals: 00000000:3B:00.0."""


def here(environ: Mapping[str, str] = os.environ) -> str:
    """The place of this process."""
    own = chosen(environ.get("CUDA_VISIBLE_DEVICES"), gpus())
    return Machine().place([address_of(gpu.bus_id) for gpu in own])


def gpus() -> list[GPU]:
    """All of the machine's; none where NVML or its binding is missing."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [
            GPU(_text(pynvml.nvmlDeviceGetUUID(h)), _text(pynvml.nvmlDeviceGetPciInfo(h).busId))
            for h in handles
        ]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


@final
class Machine:
    """Reads sysfs below `root`."""

    def __init__(self, root: Path = Path("/sys"), host: str | None = None) -> None:
        self._root = root
        self._host = host or socket.gethostname()

    def place(self, devices: Sequence[str], cpus: set[int] | None = None) -> str:
        """Of a process with these PCI devices; `cpus`: those it may run on, where it has none."""
        if devices:
            return "/".join(shared([(self._host, *self._levels(device)) for device in devices]))
        node = self._node(os.sched_getaffinity(0) if cpus is None else cpus)
        return self._host if node is None else f"{self._host}/numa{node}"

    def _levels(self, device: str) -> tuple[str, ...]:
        link = self._root / "bus/pci/devices" / device
        node = numa_of(_read(link / "numa_node"))
        where = () if node is None else (f"numa{node}",)
        return (*where, *path_of(os.path.realpath(link), device))

    def _node(self, cpus: set[int]) -> int | None:
        """The one NUMA node that these CPUs belong to."""
        nodes = {
            int(folder.name.removeprefix("node"))
            for folder in self._root.glob("devices/system/node/node[0-9]*")
            if cpus & numbers(_read(folder / "cpulist"))
        }
        return nodes.pop() if len(nodes) == 1 else None


def address_of(bus_id: str) -> str:
    """sysfs's name of the device that NVML calls so."""
    domain, rest = bus_id.lower().split(":", 1)
    return f"{domain[-4:]}:{rest}"


def numa_of(text: str) -> int | None:
    """What a `numa_node` file says; -1 means that the machine does not know."""
    said = text.strip()
    return int(said) if said.isdigit() else None


def numbers(text: str) -> set[int]:
    """What a list such as 0-3,8 says."""
    found: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def path_of(real: str, device: str) -> tuple[str, ...]:
    """Root complex and bridges above a device, and itself: what lies below /sys/devices."""
    parts = [part for part in real.split("/") if part]
    roots = [place for place, part in enumerate(parts) if _ROOT.fullmatch(part)]
    return tuple(parts[roots[0] :]) if roots else (device,)


def shared(places: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The levels that all of them have."""
    found = []
    for level in zip(*places, strict=False):
        if len(set(level)) > 1:
            break
        found.append(level[0])
    return tuple(found)


def chosen(visible: str | None, known: Sequence[GPU]) -> list[GPU]:
    """Which of them CUDA_VISIBLE_DEVICES leaves a process, by number or by (the beginning of) a UUID;
    as CUDA does, from the first name on that means none all that follow are gone."""
    if visible is None:
        return list(known)
    found: list[GPU] = []
    for name in visible.split(","):
        name = name.strip()
        by_uuid = [gpu for gpu in known if name.startswith("GPU-") and gpu.uuid.startswith(name)]
        if name.isdigit() and int(name) < len(known):
            found.append(known[int(name)])
        elif len(by_uuid) == 1:
            found += by_uuid
        else:
            break
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""


def _text(said: str | bytes) -> str:
    return said.decode() if isinstance(said, bytes) else said
