"""Places as a machine with two sockets tells them: files as its sysfs has them, NVML's own names."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sage_llm_ops.comm_backend.topology import GPU, Machine, address_of, chosen, gpus, numbers
from sage_llm_ops.scheduler_ir.routing.bounded import distance

DEVICES = {
    # GPU: NUMA node and path below /sys/devices, behind a switch of its socket
    "0000:1b:00.0": ("0\n", "pci0000:15/0000:15:01.0/0000:16:00.0/0000:1b:00.0"),
    "0000:1c:00.0": ("0\n", "pci0000:15/0000:15:01.0/0000:16:00.0/0000:1c:00.0"),
    "0000:9d:00.0": ("1\n", "pci0000:97/0000:97:01.0/0000:98:00.0/0000:9d:00.0"),
    "0000:00:02.0": ("-1\n", "pci0000:00/0000:00:02.0"),
}
KNOWN = [
    GPU("GPU-11aa", "00000000:1B:00.0"),
    GPU("GPU-22bb", "00000000:1C:00.0"),
    GPU("GPU-23cc", "00000000:9D:00.0"),
]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bus/pci/devices").mkdir(parents=True)
    for name, (node, path) in DEVICES.items():
        folder = tmp_path / "devices" / path
        folder.mkdir(parents=True)
        (folder / "numa_node").write_text(node)
        (tmp_path / "bus/pci/devices" / name).symlink_to(folder)
    for node, cpus in enumerate(("0-31,64-95\n", "32-63,96-127\n")):
        folder = tmp_path / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cpus)
    return Machine(tmp_path, "h1")


def test_of_a_gpu(machine: Machine) -> None:
    place = machine.place([address_of(KNOWN[0].bus_id)])
    assert place == "h1/numa0/pci0000:15/0000:15:01.0/0000:16:00.0/0000:1b:00.0"
    assert machine.place(["0000:00:02.0"]) == "h1/pci0000:00/0000:00:02.0", "nobody knows its node"
    assert machine.place(["0000:77:00.0"]) == "h1/0000:77:00.0", "a device that sysfs does not have"


def test_nearer_means_more_in_common(machine: Machine) -> None:
    one, switch, far = (tuple(machine.place([address_of(g.bus_id)]).split("/")) for g in KNOWN)
    elsewhere = ("h2", *one[1:])
    assert distance(one, switch) < distance(one, far) < distance(one, elsewhere)


def test_several_gpus_stand_where_all_of_them_do(machine: Machine) -> None:
    addresses = [address_of(gpu.bus_id) for gpu in KNOWN]
    assert machine.place(addresses[:2]) == "h1/numa0/pci0000:15/0000:15:01.0/0000:16:00.0"
    assert machine.place(addresses) == "h1"


def test_of_a_process_without_a_gpu(machine: Machine, tmp_path: Path) -> None:
    assert machine.place([], {0, 64}) == "h1/numa0"
    assert machine.place([], {40}) == "h1/numa1"
    assert machine.place([], {0, 40}) == "h1", "it runs on both"
    assert Machine(tmp_path / "nothing", "h1").place([], {0}) == "h1"


def test_lists_of_cpus() -> None:
    assert numbers("0-3,8\n") == {0, 1, 2, 3, 8}
    assert numbers("\n") == set()


def test_what_cuda_leaves_a_process() -> None:
    a, b, c = KNOWN
    assert chosen(None, KNOWN) == KNOWN
    assert chosen("2, 0", KNOWN) == [c, a]
    assert chosen("GPU-11", KNOWN) == [a]
    assert chosen("GPU-2", KNOWN) == [], "two begin so"
    assert chosen("1,-1,0", KNOWN) == [b], "CUDA stops at the first that is none"
    assert chosen("", KNOWN) == []


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == [], "not installed"

    class NVMLError(Exception):
        pass

    nvml = ModuleType("pynvml")
    nvml.NVMLError = NVMLError

    def no_driver() -> None:
        raise NVMLError("no driver")

    nvml.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpus() == [], "no driver"
    nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 3
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetUUID = lambda handle: KNOWN[handle].uuid.encode()
    info = type("Info", (), {})
    nvml.nvmlDeviceGetPciInfo = lambda h: type("", (info,), {"busId": KNOWN[h].bus_id.encode()})()
    assert gpus() == KNOWN
