"""Makes `.venv-lmdeploy` what its lock says, beside `.venv`: in no time where it is that already.

LMDeploy's pins clash with vLLM's, so its workers run under an interpreter of their own, and so do the
tests that look inside them. Only where `.venv` holds the CPU build: with a GPU, LMDeploy is installed
as its users do (docs/coming-from-lmdeploy.md), and the simulation needs no engine. And only where
LMDeploy has wheels.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from typing import IO

import bootstrap
import preflight
import stamp
from builds import LMDEPLOY, LMDEPLOY_MACHINES
from machine import measure
from phases import PhaseFailed, Phases, size_of

ROOT = bootstrap.ROOT
VENV = ROOT / ".venv-lmdeploy"
PYTHON = VENV / "bin" / "python"


def main() -> int:
    base = stamp.read(bootstrap.VENV)
    reason = unwanted(base, platform.machine())
    if reason:
        print("no .venv-lmdeploy: " + reason)
        return 0
    assert base is not None
    try:
        if not finished():
            with open(str(bootstrap.LOG), "a+b") as log:
                bootstrap.exclusive(log)
                if not finished():
                    install(log, base)
        return 0
    except bootstrap.Refused as error:
        print(error)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; run it again: it starts over from what is already downloaded")
        return 130
    except PhaseFailed as failure:
        bootstrap.report(failure)
        print("next step: run it again; or test without LMDeploy: .venv/bin/python -m pytest")
        return 1


def unwanted(base: stamp.Stamp | None, arch: str) -> str:
    """Why it is not made here; empty where it is."""
    if base is None or base.build != "cpu":
        return "it belongs to the CPU build (SAGE_LLM_OPS_BUILD=cpu)"
    if arch not in LMDEPLOY_MACHINES:
        return "LMDeploy has wheels for %s, this is %s" % (", ".join(LMDEPLOY_MACHINES), arch)
    return ""


def finished() -> bool:
    return stamp.current(ROOT, VENV, os.environ) is not None


def install(log: IO[bytes], base: stamp.Stamp) -> None:
    """Rebuilt in full: a few seconds, since what is downloaded is kept in uv's cache."""
    start = time.monotonic()
    disk = preflight.check_disk(measure(ROOT), LMDEPLOY, VENV.exists())
    if not disk.ok:
        raise bootstrap.Refused("\n".join(disk.lines()))
    asked = os.environ.get("PYTHON", "")
    # Taken before the install: what changes while it runs has to be seen by the next run.
    key = stamp.key(ROOT, LMDEPLOY.name, os.environ, asked)
    stamp.remove(VENV)
    if VENV.exists():
        shutil.rmtree(str(VENV))
    phases, env = Phases(log, ROOT), bootstrap.clean_env()
    uv = [str(bootstrap.UV_PROGRAM), "venv", "--quiet", "--python", str(bootstrap.PYTHON)]
    phases.run("create .venv-lmdeploy", [*uv, str(VENV)], env)
    bootstrap.install_lock(phases, LMDEPLOY, PYTHON, env)
    stamp.write(VENV, stamp.Stamp(key, LMDEPLOY.name, base.python, str(ROOT), asked, ""))
    phases.done("ready: .venv-lmdeploy", start, size_of(VENV))


if __name__ == "__main__":
    sys.exit(main())
