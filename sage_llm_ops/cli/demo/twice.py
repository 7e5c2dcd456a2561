"""Act 3: the same file simulated twice, and the recorded run fed back. Equal digests, or a defect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sage_llm_ops
from sage_llm_ops.cli.demo.screen import Screen
from sage_llm_ops.types.errors import IntegrityError, SageLlmOpsError

if TYPE_CHECKING:
    from sage_llm_ops.cli.demo.stage import Stage

REQUESTS = 2000
SIMULATED = 8
"""Engines: more than this machine could run."""


class Twice:
    """Two fresh interpreters with different hash seeds. They run while the killed worker loads."""

    def __init__(self, file: Path) -> None:
        self.command = ["simulate", str(file), "--requests", str(REQUESTS), "--rate", "20"]
        self.command += ["--instances", str(SIMULATED)]
        self._children: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Twice:
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self._children:
            child.kill()
            child.communicate()

    def start(self) -> None:
        """Begin; idempotent."""
        if self._children:
            return
        root = str(Path(sage_llm_ops.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        for seed in ("1", "2"):
            self._children.append(
                subprocess.Popen(
                    [sys.executable, "-m", "sage_llm_ops.cli", *self.command, "--json"],
                    env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def show(self, screen: Screen) -> dict[str, Any]:
        """Both digests; the first simulation's result."""
        screen.act(
            3, f"the same file simulated: {REQUESTS} requests, {SIMULATED} engines, virtual time"
        )
        self.start()
        with screen.waiting("  two fresh interpreters"):
            results = [_result(child) for child in self._children]
        for seed, result in enumerate(results, 1):
            screen.say(f"  PYTHONHASHSEED={seed}  {result['digest']}")
        if results[0]["digest"] != results[1]["digest"]:
            raise IntegrityError("two simulations of one file decided differently")
        return results[0]


def show_replay(stage: Stage, screen: Screen) -> int:
    """The live run, kill and all, through the graph once more; how many decisions were equal."""
    from sage_llm_ops.cli.replay import replay_recording

    again = replay_recording(stage.recording).checked()
    screen.say(f"  live run          {again.recorded}")
    screen.say(f"  replayed          {again.digest}")
    return again.decisions


def _result(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = child.communicate()
    if child.returncode:
        raise SageLlmOpsError(f"a simulation ended with code {child.returncode}: {err.strip()}")
    result: dict[str, Any] = json.loads(out)
    return result
