"""The checks, in the order in which they build on each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sage_llm_ops.cli.doctor import machine, packages, serving

State = Literal["ok", "absent", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `absent` is what serving does without."""

    name: str
    state: State
    said: str
    fix: str = ""
    """The command that mends it; empty where there is nothing to mend."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Something to try: `run` says what it found, or raises why it does not work."""

    name: str
    run: Callable[[], str]
    fix: str
    needed: bool = True


class Absent(Exception):
    """Raised by a trial of what is not there at all; `fix` gets it, where one would want it."""

    def __init__(self, said: str, fix: str = "") -> None:
        self.fix = fix
        super().__init__(said)


def examine(trials: Iterable[Trial] | None = None) -> Iterator[Check]:
    """One check each, as soon as it is known."""
    for trial in default_trials() if trials is None else trials:
        yield _check(trial)


def _check(trial: Trial) -> Check:
    try:
        return Check(trial.name, "ok", trial.run())
    except Absent as absent:
        state: State = "broken" if trial.needed else "absent"
        return Check(trial.name, state, str(absent), absent.fix or (trial.needed * trial.fix))
    except Exception as error:  # whatever it is, it is the finding
        said = f"{type(error).__name__}: {error}"
        return Check(trial.name, "broken", said, trial.fix)


def default_trials() -> list[Trial]:
    """What serving on this machine needs; what is optional comes last."""
    mend = packages.how_to_install()
    short = "export XDG_RUNTIME_DIR to a short path that you may write to, e.g. /tmp"
    return [
        Trial(
            "python", packages.python, "install Python 3.11, 3.12 or 3.13, and a new environment"
        ),
        *(
            Trial(name, lambda name=name, spec=spec: packages.installed(name, spec), mend)  # type: ignore[misc]
            for name, spec in packages.needed()
        ),
        Trial("/dev/shm", machine.shared_memory, machine.MEND_SHM, needed=False),
        Trial("ipc socket", machine.ipc_socket, short),
        Trial("sage graph", serving.in_process, mend),
        Trial("worker process", serving.in_a_child, mend),
        Trial("prefix index", machine.prefix_index, machine.MEND_INDEX, needed=False),
        Trial("vllm", packages.vllm, packages.how_to_install("vllm"), needed=False),
        Trial(
            "gpu", machine.gpus, "install the NVIDIA driver again, then: nvidia-smi", needed=False
        ),
        Trial("plug-ins", packages.plugins, "rename or uninstall what is named", needed=False),
    ]
