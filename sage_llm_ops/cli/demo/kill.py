"""Act 2: a worker is killed with `kill -9` while it answers; nobody notices but the ledger."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sage_llm_ops.cli.demo.answers import PATIENCE_S, checked, equal, retries, submit, watch
from sage_llm_ops.cli.demo.prompts import COUNT, prompts
from sage_llm_ops.cli.demo.screen import Screen
from sage_llm_ops.types.errors import EngineStartError, IntegrityError
from sage_llm_ops.types.results import RequestResult

if TYPE_CHECKING:
    from sage_llm_ops.cli.demo.screen import Tick
    from sage_llm_ops.cli.demo.stage import Stage
    from sage_llm_ops.core import ControlPlane
    from sage_llm_ops.pipeline.handle import RequestHandle

MID_RUN = 8
"""The worker dies as soon as it has an answer of so many tokens in the making."""


@dataclass(slots=True)
class Death:
    """What was on the worker when it was killed."""

    worker: str
    pid: int
    at: float = 0.0
    told: dict[str, int] = field(default_factory=dict)
    """The requests on it, and how many tokens their callers had."""


def kill_one(
    stage: Stage,
    plane: ControlPlane,
    screen: Screen,
    before: Sequence[RequestResult],
    *,
    meanwhile: Callable[[], None],
) -> str:
    """Returns the id of a request that lived through it. `meanwhile` is called when the answers are
    in and one core waits for the worker to load."""
    victim = next(iter(plane.instances))
    death = Death(victim, int(plane.worker(victim).describe()["pid"]))
    screen.act(2, f"the same {COUNT} prompts, and kill -9 of {victim} (pid {death.pid}) on the way")
    handles = submit(plane, "a2", prompts())
    with screen.bar(COUNT, "answered") as tick:
        _kill_mid_run(death, handles, tick)
        watch(handles, tick)
    results = checked(plane, handles)
    failed = retries(plane, handles)
    _check(death, [(entry.request, entry.code) for entry in failed])
    same = equal(before, results)
    if stage.exact and same < COUNT:
        raise IntegrityError(f"{COUNT - same} answers are not those of act 1")
    screen.say(
        f"  it died with {len(death.told)} requests on it, {sum(map(bool, death.told.values()))} of "
        f"them half told; {len(failed)} were queued again and went on from their last token"
    )
    meanwhile()
    back = _wait_until_back(plane, death, screen)
    screen.result(
        f"{COUNT} of {COUNT} answered, none twice; {same} token for token as in act 1; "
        f"{victim} was back after {back:.1f} s."
    )
    return max(failed, key=lambda entry: death.told.get(entry.request, 0)).request


def _kill_mid_run(death: Death, handles: Sequence[RequestHandle], tick: Tick) -> None:
    limit = time.monotonic() + PATIENCE_S
    while True:
        mine = [h for h in handles if h.worker == death.worker and not h.done()]
        if any(len(handle.tokens) >= MID_RUN for handle in mine):
            break
        tick(sum(handle.done() for handle in handles))
        if all(handle.done() for handle in handles) or time.monotonic() > limit:
            raise IntegrityError(f"no moment came at which {death.worker} was in mid-answer")
        time.sleep(0.002)
    os.kill(death.pid, signal.SIGKILL)
    death.at = time.monotonic()
    death.told = {handle.request_id: len(handle.tokens) for handle in mine}


def _check(death: Death, failed: Sequence[tuple[str, str]]) -> None:
    """Only the death made requests fail: a broken stream would be repaired by a retry as well."""
    if not failed:
        raise IntegrityError(f"{death.worker} died and nothing of it had to be done again")
    others = [f"{request} ({code})" for request, code in failed if code != "worker_lost"]
    if others:
        raise IntegrityError(f"attempts failed for another reason: {', '.join(others)}")


def _wait_until_back(plane: ControlPlane, death: Death, screen: Screen) -> float:
    """Seconds from its death until it answered again, which a pinned request proves."""
    limit = time.monotonic() + PATIENCE_S
    worker = plane.worker(death.worker)
    with screen.waiting(f"  {death.worker} starts again"):
        while worker.incarnation < 2 or worker.describe()["state"] != "up":
            if death.worker not in plane.instances or time.monotonic() > limit:
                raise EngineStartError(f"{death.worker} did not come back; see .demo/")
            time.sleep(0.02)
        checked(plane, submit(plane, "a2-back", prompts()[:1], pin=death.worker))
    return time.monotonic() - death.at
