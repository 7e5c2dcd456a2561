"""What is installed, and whether its version is one that was run with this package."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import sage_llm_ops

MODULES = {"isage": "sage.runtime", "pyzmq": "zmq"}
"""Where the module is not called like the package."""
ROOT = Path(sage_llm_ops.__file__).parents[1]
VLLM = """
import json, torch
from sage_llm_ops.engines.vllm.versions import check_version
version = check_version()
import vllm
gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps([version, torch.__version__, gpus]))
"""
VLLM_S = 120.0
"""Its import alone is 5,700 modules."""


def python() -> str:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise RuntimeError(f"{found}, and it has to be 3.11, 3.12 or 3.13")
    return f"{found} ({sys.executable})"


def needed() -> Iterator[tuple[str, str]]:
    """Name and version bounds of each package that is always needed."""
    for line in _requirements():
        name, _, bounds = re.sub(r"\s", "", line.partition(";")[0]).partition(">")
        yield name, f">{bounds}"


def installed(name: str, bounds: str) -> str:
    """Its version, once it was imported."""
    version = metadata.version(name)
    if not within(version, bounds):
        raise RuntimeError(f"{version} is installed, and it has to be {bounds}")
    import_module(MODULES.get(name, name))
    return version


def within(version: str, bounds: str) -> bool:
    """Of bounds like `>=1.2,<2`; that is all our own use."""
    found = _numbers(version)
    for bound in bounds.split(","):
        operator, limit = re.match(r"([<>=]+)(.*)", bound).groups()  # type: ignore[union-attr]
        if operator == ">=" and not found >= _numbers(limit):
            return False
        if operator == "<" and not found < _numbers(limit):
            return False
    return True


def vllm() -> str:
    """Imported in a child: it must not load into this process, and may take the child with it."""
    from sage_llm_ops.cli.doctor.checks import Absent
    from sage_llm_ops.config.settings import importable
    from sage_llm_ops.engines.child import child_environment
    from sage_llm_ops.engines.vllm.versions import is_cpu_build

    if not importable("vllm"):
        raise Absent("not installed: only simulated workers run here", how_to_install("vllm"))
    done = subprocess.run(
        [sys.executable, "-c", VLLM],
        env=child_environment(dict(os.environ), {}),
        capture_output=True,
        text=True,
        timeout=VLLM_S,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RuntimeError(last[0])
    version, torch, gpus = json.loads(done.stdout.splitlines()[-1])
    where = "CPU build" if is_cpu_build() else f"{gpus} GPUs seen"
    return f"{version} with torch {torch}, {where}"


def plugins() -> str:
    """The names that installed packages add; a name of ours among them is refused when it is used."""
    from sage_llm_ops.cli.doctor.checks import Absent
    from sage_llm_ops.engines.registry import ENGINES
    from sage_llm_ops.engines.tokenizers import TOKENIZERS
    from sage_llm_ops.kv_policy import POLICIES
    from sage_llm_ops.operators import OPERATORS
    from sage_llm_ops.scheduler_ir import ROUTINGS, STRATEGIES

    found, clashes = [], []
    for registry in (OPERATORS, STRATEGIES, ROUTINGS, POLICIES, ENGINES, TOKENIZERS):
        for name in registry:
            package = registry.origin(name)
            if package and name in registry.built_in:
                clashes.append(f"{registry.kind} {name!r} of {package!r} is a built-in name")
            elif package:
                found.append(f"{registry.kind} {name!r} ({package})")
    if clashes:
        raise RuntimeError("; ".join(clashes))
    if not found:
        raise Absent("none installed")
    return ", ".join(found)


def how_to_install(extra: str = "") -> str:
    """In a checkout `make` does it from a lock; elsewhere pip."""
    if (ROOT / "tools" / "bootstrap.py").is_file():
        return f"make -C {shlex.quote(str(ROOT))} bootstrap"
    wanted = f"sage-llm-ops[{extra}]" if extra else "sage-llm-ops"
    return f"{shlex.quote(sys.executable)} -m pip install --upgrade {shlex.quote(wanted)}"


def _requirements() -> list[str]:
    file = ROOT / "pyproject.toml"
    if file.is_file():  # a checkout: what it says now, not what it said when it was installed
        project = tomllib.loads(file.read_text("utf-8"))["project"]
        if project["name"] == "sage-llm-ops":
            return list(project["dependencies"])
    said = metadata.requires("sage-llm-ops") or []
    return [line for line in said if "extra ==" not in line]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4])
