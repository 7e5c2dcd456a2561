"""The proof that an install was finished: written last, removed before anything is changed.

So `.venv` with a stamp is whole, and `.venv` without one (made by hand, or interrupted) is rebuilt.
Repairing it in place was refused: after an interrupt a package can look installed and lack files.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Mapping

from builds import LOCKED, requested

# Raise it when the bootstrap itself changes what it installs.
VERSION = "1"
NAME = "sage-llm-ops.json"


@dataclass(frozen=True)
class Stamp:
    key: str
    build: str
    python: str
    # The folder: scripts in an environment hold absolute paths, so a moved one has to be rebuilt.
    root: str
    # $PYTHON when it was made. Kept when a later run sets none: the Python must not flip between runs.
    asked: str
    # The first line that every `make` prints where vLLM is not served, and why.
    note: str


def key(root: Path, build: str, env: Mapping[str, str], asked: str) -> str:
    """Everything that decides what is installed. An unreadable file raises OSError."""
    digest = hashlib.sha256()
    for name in (LOCKED[build].lock, "pyproject.toml"):
        digest.update((root / name).read_bytes())
    for text in (VERSION, build, requested(env), asked, str(root)):
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()


def read(venv: Path) -> Stamp | None:
    try:
        return Stamp(**json.loads((venv / NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(venv: Path, stamp: Stamp) -> None:
    """Atomically: a half-written stamp must not exist, even after a power cut."""
    part = venv / (NAME + ".part")
    with open(str(part), "w") as file:
        json.dump(asdict(stamp), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(str(part), str(venv / NAME))


def remove(venv: Path) -> None:
    try:
        (venv / NAME).unlink()
    except FileNotFoundError:
        pass


def current(root: Path, venv: Path, env: Mapping[str, str]) -> Stamp | None:
    """The stamp if nothing has to be done. Starts no program: this is the path of every later `make`."""
    stamp = read(venv)
    if stamp is None or stamp.build not in LOCKED or not (venv / "bin" / "python").exists():
        return None
    try:
        asked = env.get("PYTHON") or stamp.asked
        return stamp if stamp.key == key(root, stamp.build, env, asked) else None
    except OSError:
        return None
