"""Compiles the lock files: `make lock`, or `make lock UPGRADE=1` for the newest that the bounds allow."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pip_settings
from builds import LOCKED, Build
from interpreter import OLDEST

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# %s: made by `make lock`, not by hand.
# One file for Python %s and every platform of this build (uv's universal resolution), so that a
# fault seen on one Python is looked for among the same versions on another; where no single version
# serves all, markers choose.
"""
PIN = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*==[^\s@/]+( ; .*)?$")
COMMENT = re.compile(r"^\s*#")


def compile_lock(build: Build, uv: str, settings: pip_settings.UvSettings, extra: list[str]) -> str:
    inputs = ["pyproject.toml", "locks/build.in"]
    if (ROOT / "locks" / (build.name + ".in")).exists():
        inputs.append("locks/%s.in" % build.name)
    argv = [uv, "pip", "compile", *inputs]
    for name in build.extras:
        argv += ["--extra", name]
    argv += ["--universal", "--python-version", "%d.%d" % OLDEST, "--output-file", build.lock]
    argv += ["--no-header", "--annotation-style", "line", "--quiet"]
    argv += [*build.uv_flags, *build.compile_flags, *settings.flags, *extra]
    if build.torch_cpu and not settings.own_sources:
        argv += ["--torch-backend", "cpu"]
    subprocess.run(argv, check=True, cwd=str(ROOT), env={**os.environ, **settings.env})
    # It says of an overridden pin by which flag it was: the file's name says enough.
    return (ROOT / build.lock).read_text().replace("--override ", "")


def foreign_lines(text: str) -> list[str]:
    """Lines that are neither pin nor comment (an index, a path, an address), and comments that hold one."""
    bad = []
    for line in text.splitlines():
        ok = COMMENT.match(line) or PIN.match(line.split("  #")[0].rstrip())
        if not ok or "://" in line or "--" in line:
            bad.append(line)
    return bad


def main() -> int:
    uv = ROOT / ".venv" / "bin" / "uv"
    found = str(uv) if uv.exists() else shutil.which("uv")
    if found is None:
        print("uv not found: run `make bootstrap` first, or install uv")
        return 2
    settings = pip_settings.forward(pip_settings.read(sys.executable, os.environ), os.environ)
    for build in LOCKED.values():
        text = compile_lock(build, found, settings, sys.argv[1:])
        bad = foreign_lines(text)
        if bad:
            print("%s would tie the lock to this machine: %s" % (build.lock, bad[0]))
            return 1
        span = "3.11 to 3.13"
        (ROOT / build.lock).write_text(HEADER % (build.lock, span) + text)
        print("%s: %d lines" % (build.lock, len(text.splitlines())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
