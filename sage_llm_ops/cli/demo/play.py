"""The order of the acts, and the life of the control plane under them."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_llm_ops.cli.demo import stage as stages
from sage_llm_ops.cli.demo.kill import kill_one
from sage_llm_ops.cli.demo.screen import Screen
from sage_llm_ops.cli.demo.serve import serve
from sage_llm_ops.cli.demo.stage import Stage
from sage_llm_ops.cli.demo.twice import Twice, show_replay
from sage_llm_ops.cli.numbers import print_workers

if TYPE_CHECKING:
    from sage_llm_ops.core import ControlPlane

STOP_S = 1.0
"""For workers to end by themselves: nothing runs on them any more, so they are killed after it."""


def play(stage: Stage, screen: Screen) -> dict[str, Any]:
    """All acts, then the numbers and what to try next; the same as plain values."""
    stages.prepare()
    _log_to(stages.FOLDER / "plane.log")
    file = stages.pipeline_file()
    with Twice(file) as twice:
        with _running(stage, screen) as plane:
            before = serve(stage, plane, screen)
            survivor = kill_one(stage, plane, screen, before, meanwhile=twice.start)
            table = plane.pipeline.plane.metrics.table()
        result = twice.show(screen)
        decisions = show_replay(stage, screen)
    screen.result(
        f"{result['decisions']} simulated decisions twice the same, and {decisions} of the live "
        "run, its kill included, the same again from its recording."
    )
    screen.say()
    print_workers(table, "acts 1 and 2", screen.console)
    screen.say("next:")
    me = _myself()
    screen.say(f"  {me} why {survivor} --ledger {stage.ledger}")
    screen.say(f"  {me} simulate {file} --instances 64 --rate 100 --requests 5000")
    screen.say(f"  {me} pipeline show {file}")
    return {
        "answered": len(before),
        "lived_through_a_kill": survivor,
        "simulated": {"decisions": result["decisions"], "digest": result["digest"]},
        "replayed_decisions": decisions,
        "workers": table,
        "ledger": str(stage.ledger),
        "recording": str(stage.recording),
    }


@contextlib.contextmanager
def _running(stage: Stage, screen: Screen) -> Iterator[ControlPlane]:
    """Workers start in parallel while this process loads what it needs itself."""
    from sage_llm_ops.core import ControlPlane

    plane = ControlPlane(stage.pipeline(), record=stage.recording, log_dir=stages.FOLDER)
    began = time.monotonic()
    names = " and ".join(plane.instances)
    finished = False
    try:
        with screen.waiting(f"starting {names}; logs: {stages.FOLDER}/"):
            plane.start()
        screen.say(f"{names} are up after {time.monotonic() - began:.1f} s")
        yield plane
        finished = True
    finally:
        plane.stop(STOP_S if finished else 0.0)


def _log_to(path: Path) -> None:
    """What the control plane logs, the killed worker among it: on the screen it would read like a
    fault of the demo."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("sage_llm_ops")
    logger.addHandler(handler)
    logger.propagate = False


def _myself() -> str:
    """How this command is called from this folder."""
    if shutil.which("sage-llm-ops"):
        return "sage-llm-ops"
    script = Path(sys.executable).with_name("sage-llm-ops")
    if not script.is_file():
        return f"{sys.executable} -m sage_llm_ops.cli"
    with contextlib.suppress(ValueError):
        return str(script.relative_to(Path.cwd()))
    return str(script)
