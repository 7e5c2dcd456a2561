"""Which Python the virtual environment is made from."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Mapping

OLDEST, NEWEST = (3, 11), (3, 13)
RANGE = "%d.%d to %d.%d" % (*OLDEST, *NEWEST)
# python3 first, although a newer one may be found: it is the one that this machine's wheels are for.
NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python")

# _base_executable: an activated .venv may be the very one that is about to be rebuilt.
PROBE = """
import importlib.util, json, sys
gone = [m for m in ("venv", "ensurepip") if importlib.util.find_spec(m) is None]
path = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps([path, sys.version_info[:3], gone]))
"""


@dataclass(frozen=True)
class Interpreter:
    name: str
    path: str
    version: tuple[int, int, int]
    missing: tuple[str, ...] = ()

    @property
    def dotted(self) -> str:
        return "%d.%d.%d" % self.version

    @property
    def in_range(self) -> bool:
        return OLDEST <= self.version[:2] <= NEWEST

    @property
    def usable(self) -> bool:
        return self.in_range and not self.missing


def probe(name: str) -> Interpreter | None:
    """None where the name starts nothing: absent, or a shim for a version that is not active."""
    try:
        out = subprocess.run(
            [name, "-c", PROBE],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
        )
        path, version, missing = json.loads(out.stdout.decode())
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return Interpreter(name, path, tuple(version), tuple(missing))


def find(env: Mapping[str, str], present: str = "") -> tuple[Interpreter | None, list[Interpreter]]:
    """The interpreter to use, and all that were looked at before it was found.

    $PYTHON is taken at its word: when it does not serve, no other is tried in its place. Without it,
    `present` (the Python of the environment that is already there) comes first.
    """
    asked = env.get("PYTHON", "")
    seen = []
    for name in [os.path.expanduser(asked)] if asked else [present, *NAMES] if present else NAMES:
        found = probe(name)
        if found is not None:
            seen.append(found)
            if found.usable:
                return found, seen
    return None, seen
