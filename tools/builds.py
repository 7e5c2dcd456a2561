"""The installs that `make` knows: which lock, which engine, what the machine must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping

if TYPE_CHECKING:
    from machine import Machine

CHOICE = "SAGE_LLM_OPS_BUILD"
VLLM_MACHINES = ("x86_64", "aarch64")
LMDEPLOY_MACHINES = ("x86_64",)
VLLM_GLIBC = (2, 31)  # of all the pins, llguidance has the newest wheel: manylinux_2_31


@dataclass(frozen=True)
class Build:
    """One lock and its needs. Gigabytes are 10^9 bytes, as disks are sold."""

    name: str
    engine: str
    disk_gb: float
    memory_gb: float
    shm: bool
    # Passed to uv when the lock is compiled and when it is installed.
    uv_flags: tuple[str, ...] = ()
    # Passed to uv when the lock is compiled only.
    compile_flags: tuple[str, ...] = ()
    torch_cpu: bool = False
    # What pyproject.toml's extras add to the lock.
    extras: tuple[str, ...] = ("dev", "bench")

    @property
    def lock(self) -> str:
        return "locks/%s.txt" % self.name


BUILDS = {
    "cpu": Build(
        "cpu",
        "vllm (CPU build)",
        6,
        4,
        True,
        compile_flags=("--excludes", "locks/cpu-excludes.txt"),
        torch_cpu=True,
    ),
    "cuda": Build(
        "cuda",
        "vllm (CUDA build)",
        25,
        8,
        True,
        uv_flags=("--constraints", "locks/cuda-constraints.txt"),
    ),
    "sim": Build("sim", "sim", 1, 1, False),
}
# LMDeploy's environment, beside the one of the CPU build: LMDeploy wants an older torch than vLLM, and
# another tvm-ffi. Left out or overridden is what needs a GPU (locks/lmdeploy-*.txt).
LMDEPLOY = Build(
    "lmdeploy",
    "lmdeploy (on the CPU test device)",
    3,
    4,
    True,
    compile_flags=(
        *("--excludes", "locks/lmdeploy-excludes.txt"),
        *("--overrides", "locks/lmdeploy-overrides.txt"),
        # What both hold they hold in one version: downloaded once, and no difference between them.
        *("--constraints", "locks/cpu.txt"),
    ),
    torch_cpu=True,
    extras=("lmdeploy",),
)
LOCKED = {**BUILDS, LMDEPLOY.name: LMDEPLOY}


class UnknownBuild(ValueError):
    """SAGE_LLM_OPS_BUILD names no build."""


@dataclass(frozen=True)
class Choice:
    build: Build
    # Why not vLLM, as the first line of the demo; empty where vLLM is served.
    note: str


def requested(env: Mapping[str, str]) -> str:
    """The build asked for by name, or "" for: what fits this machine."""
    name = env.get(CHOICE, "").strip().lower()
    if name and name not in BUILDS:
        raise UnknownBuild(
            "%s=%r is not a build; the builds are: %s" % (CHOICE, name, ", ".join(BUILDS))
        )
    return name


def choose(machine: Machine, env: Mapping[str, str]) -> Choice:
    name = requested(env)
    if name == "sim":
        return Choice(BUILDS["sim"], "engine=sim: asked for by %s=sim" % CHOICE)
    if name:
        return Choice(BUILDS[name], "")
    reason = why_no_vllm(machine)
    if reason:
        return Choice(BUILDS["sim"], "engine=sim: " + reason)
    return Choice(BUILDS["cuda" if machine.gpu else "cpu"], "")


def why_no_vllm(machine: Machine) -> str:
    """Empty where the released vLLM wheels and what they need install: Linux on x86_64 and aarch64."""
    if machine.system != "Linux" or machine.arch not in VLLM_MACHINES:
        return "vLLM's wheels serve Linux on %s, this is %s on %s" % (
            " and ".join(VLLM_MACHINES),
            machine.system,
            machine.arch,
        )
    if machine.glibc < VLLM_GLIBC:
        found = "%d.%d" % machine.glibc if machine.glibc > (0, 0) else "another C library"
        return "vLLM's wheels need glibc %d.%d or newer, this system has %s" % (*VLLM_GLIBC, found)
    return ""
