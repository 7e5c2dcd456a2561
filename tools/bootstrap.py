"""Makes `.venv` what the lock says: once in full, afterwards in no time. Every `make` runs it first.

Interruptible at any moment (tools/stamp.py says why), safe against a second `make` (one lock file),
free of guesses: the lock is installed without resolving.
"""

import sys

if sys.version_info < (3, 8):  # before any import: they use newer syntax
    sys.exit(
        "sage-llm-ops needs Python 3.11, 3.12 or 3.13; this one is %d.%d.\n"
        "mend it: install one, then PYTHON=/path/to/python3.11 make" % sys.version_info[:2]
    )

import os
import shutil
import signal
import time
from pathlib import Path
from typing import IO, Any, Dict, List, NoReturn, Optional, Tuple

import interpreter
import pip_settings
import preflight
import stamp
from builds import Build, Choice, UnknownBuild, choose
from machine import measure
from phases import PhaseFailed, Phases, size_of

UV = "uv==0.13.8"  # --excludes and `pip sync` as used here; raise it together with `make lock`
ROOT = preflight.ROOT
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
UV_PROGRAM = VENV / "bin" / "uv"
# Outside .venv, which may be removed. It is the lock file as well.
LOG = ROOT / ".venv-bootstrap.log"
TAIL_LINES = 20
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT", "UV_PYTHON", "PIP_TARGET")
UNREACHED = ("dns error", "timed out", "connection", "error sending request", "max retries")


class Refused(Exception):
    """A preflight check failed; the message is what the user reads."""


def main() -> int:
    try:
        done = stamp.current(ROOT, VENV, os.environ)
        if done is None:
            signal.signal(signal.SIGTERM, _interrupt)
            with open(str(LOG), "a+b") as log:
                exclusive(log)
                done = stamp.current(ROOT, VENV, os.environ)
                if done is None:
                    install(log)
        if done is not None and done.note:
            print(done.note, flush=True)
        return 0
    except KeyboardInterrupt:
        print("\ninterrupted; run it again: it starts over from what is already downloaded")
        return 130
    except (Refused, UnknownBuild) as error:
        print(error)
        return 2
    except PhaseFailed as failure:
        report(failure)
        print("next step: " + next_step(failure.output))
        return 1


def report(failure: PhaseFailed) -> None:
    print("\n".join(failure.output.strip().splitlines()[-TAIL_LINES:]))
    print("\n%s; the whole log: %s" % (failure, LOG.name))


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def exclusive(log: IO[bytes]) -> None:
    """Held until this process and its children are gone; a dead holder leaves nothing behind."""
    try:
        import fcntl
    except ImportError:  # Windows: the preflight refuses it, with a way out
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("another make is installing into .venv; waiting for it", flush=True)
        fcntl.flock(log, fcntl.LOCK_EX)
    log.truncate(0)


def install(log: IO[bytes]) -> None:
    start = time.monotonic()
    old = stamp.read(VENV)
    choice, python = _preflight(start, old)
    phases = Phases(log, ROOT)
    reason = unfit(ROOT, old, python)
    asked = os.environ.get("PYTHON") or (old.asked if old and not reason else "")
    # Taken before the install: what changes while it runs has to be seen by the next run.
    key = stamp.key(ROOT, choice.build.name, os.environ, asked)
    stamp.remove(VENV)
    env = clean_env()
    if reason:
        _make_venv(phases, python, reason, env)
    _install_packages(phases, choice, env)
    done = stamp.Stamp(key, choice.build.name, python.dotted, str(ROOT), asked, choice.note)
    stamp.write(VENV, done)
    phases.done("ready: .venv", start, size_of(VENV))


def _preflight(
    start: float, old: Optional[stamp.Stamp]
) -> "Tuple[Choice, interpreter.Interpreter]":
    machine = measure(ROOT)
    choice = choose(machine, os.environ)
    python, seen = interpreter.find(os.environ, str(PYTHON) if old else "")
    found = preflight.checks(machine, choice.build, python, seen, old is not None)
    faults = [line for check in found if not check.ok for line in check.lines()]
    if python is None or faults:
        raise Refused("\n".join(faults))
    if choice.note:
        print(choice.note, flush=True)
    title = "preflight: Python %s, engine=%s" % (python.dotted, choice.build.engine)
    print("%s, %.1f s" % (title, time.monotonic() - start), flush=True)
    return choice, python


def unfit(root: Path, old: Optional[stamp.Stamp], python: interpreter.Interpreter) -> str:
    """Why `.venv` has to be made anew; empty if it only has to be brought up to date."""
    venv = root / ".venv"
    if not venv.exists():
        return "none yet"
    if old is None:
        return "no finished install in it"
    if old.root != str(root):
        return "it was made for %s" % old.root
    if old.python.split(".")[:2] != python.dotted.split(".")[:2]:
        return "it was made with Python %s" % old.python
    return "" if interpreter.probe(str(venv / "bin" / "python")) else "its Python does not start"


def _make_venv(
    phases: Phases, python: interpreter.Interpreter, reason: str, env: Dict[str, str]
) -> None:
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        print("rebuilding .venv: " + reason, flush=True)
        shutil.rmtree(str(VENV))
    argv = [python.path, "-m", "venv", "--prompt", "sage-llm-ops", str(VENV)]
    phases.run("create .venv", argv, env)


def _install_packages(phases: Phases, choice: Choice, env: Dict[str, str]) -> None:
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    phases.run("install " + UV, [*pip, "install", UV], env)
    install_lock(phases, choice.build, PYTHON, env)


def install_lock(phases: Phases, build: Build, python: Path, env: Dict[str, str]) -> None:
    """What the build's lock says, and the project, into the environment of `python`."""
    settings = pip_settings.forward(pip_settings.read(str(PYTHON), env), env)
    uv_env = {**env, **settings.env}
    uv = [str(UV_PROGRAM), "pip"]
    common = ["--python", str(python), *settings.flags]
    count = sum(line[:1].isalnum() for line in (ROOT / build.lock).read_text().splitlines())
    sync = [*uv, "sync", *common, *build.uv_flags, build.lock]
    title = "install %d packages (%s)" % (count, build.lock)
    backends = torch_backends(build, settings.own_sources)
    for backend in backends:
        try:
            phases.run(title, [*sync, *backend], uv_env)
            break
        except PhaseFailed as failure:
            if backend is backends[-1] or "torch" not in failure.output:
                raise
            print("torch's CPU build is not in pip's or uv's sources; asking PyTorch's index")
    project = ["install", *common, "--no-deps", "--no-build-isolation", "--editable", "."]
    phases.run("install sage-llm-ops", [*uv, *project], uv_env)
    phases.run("import sage_llm_ops", [str(python), "-c", "import sage_llm_ops"], env)


def torch_backends(build: Build, own_sources: bool) -> "List[List[str]]":
    """Which uv flags to try in turn: the user's own sources first, they may be all that is reachable."""
    if not build.torch_cpu:
        return [[]]
    index = ["--torch-backend", "cpu"]
    return [[], index] if own_sources else [index]


def clean_env() -> "Dict[str, str]":
    """The user's environment without what would lead pip or uv to another environment."""
    env = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    env["UV_NO_PROGRESS"] = "1"
    return env


def next_step(output: str) -> str:
    text = output.lower()
    sim = "or go on without vLLM: SAGE_LLM_OPS_BUILD=sim make demo"
    if "no space left" in text or "os error 28" in text:
        return "free disk space (pip cache purge; make clean), then run it again"
    if "torch==" in text or "/torch/" in text:
        return (
            "torch's CPU build for this Python is in no source that was reached. Another Python "
            "(PYTHON=python3.11 make), or `pip config set global.find-links FOLDER`, %s" % sim
        )
    if any(word in text for word in UNREACHED):
        return (
            "no package index was reached. Behind a mirror: `pip config set global.index-url URL` "
            "(uv is told of it); then run it again"
        )
    return "run it again: it starts over from what is already downloaded; %s" % sim


if __name__ == "__main__":
    sys.exit(main())
