"""Can this machine take the install? Answers in under two seconds and says what mends each fault.

`python3 tools/preflight.py` prints every check; the bootstrap runs the same checks and prints only faults.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import interpreter
from builds import BUILDS, CHOICE, Build, UnknownBuild, choose, why_no_vllm
from interpreter import RANGE, Interpreter
from machine import GB, Machine, measure

ROOT = Path(__file__).resolve().parent.parent
# What a change of a few pins may take when the environment is already there.
UPDATE_DISK_GB = 2.0


@dataclass(frozen=True)
class Check:
    name: str
    value: str
    limit: str
    ok: bool
    # The command that mends it.
    fix: str

    def lines(self) -> list[str]:
        head = "%-4s %-9s %s (needs %s)" % (
            "ok" if self.ok else "FAIL",
            self.name,
            self.value,
            self.limit,
        )
        return [head] if self.ok else [head, "     mend it: " + self.fix]


def checks(
    machine: Machine,
    build: Build,
    python: Interpreter | None,
    seen: list[Interpreter],
    installed: bool = False,
) -> list[Check]:
    found = [
        check_platform(machine, build),
        check_python(machine, python, seen),
        check_disk(machine, build, installed),
    ]
    if machine.memory_available is not None:
        found.append(check_memory(machine, build))
    if build.shm:
        found.append(check_shm(machine))
    return found


def check_platform(machine: Machine, build: Build) -> Check:
    value = "%s on %s" % (machine.system, machine.arch)
    if machine.system == "Windows":
        return Check("platform", value, "Linux or macOS", False, "wsl --install, then run it there")
    reason = "" if build.name == "sim" else why_no_vllm(machine)
    limit = "Linux or macOS" if build.name == "sim" else "what vLLM's wheels serve"
    return Check(
        "platform", reason or value, limit, not reason, "run it with %s=sim (no vLLM)" % CHOICE
    )


def check_python(machine: Machine, python: Interpreter | None, seen: list[Interpreter]) -> Check:
    limit = "Python %s with venv and ensurepip" % RANGE
    if python is not None:
        return Check("python", "%s (%s)" % (python.dotted, python.path), limit, True, "")
    value = ", ".join(_describe(one) for one in seen) or "none found"
    half = next((one for one in seen if one.in_range), None)
    if half is not None:
        fix = (
            "sudo apt-get install python%d.%d-venv (or your system's package of it)"
            % (half.version[:2])
        )
    elif machine.system == "Darwin":
        fix = "brew install python@3.12"
    else:
        fix = "sudo apt-get install python3.11 python3.11-venv (dnf: python3.11)"
    return Check(
        "python", value, limit, False, fix + "; or name one: PYTHON=/path/to/python3.11 make"
    )


def _describe(one: Interpreter) -> str:
    gone = " without %s" % " and ".join(one.missing) if one.missing else ""
    return "%s is %s%s" % (one.name, one.dotted, gone)


def check_disk(machine: Machine, build: Build, installed: bool) -> Check:
    needs = min(UPDATE_DISK_GB, build.disk_gb) if installed else build.disk_gb
    return Check(
        "disk",
        "%.1f GB free" % (machine.disk_free / GB),
        "%.1f GB" % needs,
        machine.disk_free >= needs * GB,
        _smaller("make clean, or clone to a larger disk", build),
    )


def check_memory(machine: Machine, build: Build) -> Check:
    available = machine.memory_available or 0
    return Check(
        "memory",
        "%.1f GB available" % (available / GB),
        "%.1f GB" % build.memory_gb,
        available >= build.memory_gb * GB,
        _smaller("stop other programs, or raise the container's limit (docker run -m 6g)", build),
    )


def check_shm(machine: Machine) -> Check:
    return Check(
        "shm",
        "/dev/shm is " + (machine.shm_fault or "writable"),
        "/dev/shm present and writable",
        not machine.shm_fault,
        "sudo mount -t tmpfs -o mode=1777 tmpfs /dev/shm (docker run --shm-size=1g)",
    )


def _smaller(fix: str, build: Build) -> str:
    sim = BUILDS["sim"]
    if build.name == "sim":
        return fix
    return "%s; or %s=sim make demo (no vLLM: %g GB disk, %g GB memory)" % (
        fix,
        CHOICE,
        sim.disk_gb,
        sim.memory_gb,
    )


def main() -> int:
    start = time.monotonic()
    try:
        machine = measure(ROOT)
        choice = choose(machine, os.environ)
    except UnknownBuild as error:
        print(error)
        return 2
    print(choice.note or "engine=%s" % choice.build.engine)
    found = checks(machine, choice.build, *interpreter.find(os.environ))
    for check in found:
        print("\n".join(check.lines()))
    faults = sum(not check.ok for check in found)
    print("%d checks, %d faults, %.1f s" % (len(found), faults, time.monotonic() - start))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
