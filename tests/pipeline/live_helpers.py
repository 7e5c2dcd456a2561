"""What the tests of the live driver share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.testing import sim_instances

Live = Any
Make = Callable[..., Live]


def add_inline(one: Live, n: int = 1, **options: Any) -> list[InlineWorker]:
    workers = []
    for instance in sim_instances(n, model="m", **options):
        worker = InlineWorker(instance, instance.options, one.pipeline.hands)
        one.pipeline.attach(worker)
        worker.start()
        workers.append(worker)
    return workers


def nothing_left(one: Live) -> None:
    plane = one.pipeline.plane
    assert (plane.jobs, plane.running, plane.fleet.reservations) == ({}, {}, {})
    assert one.pipeline.hands.handles == {}
    assert one.pipeline.hands._routes == {}
    assert one.pipeline.source.pending() == []
    assert plane.broken == 0


def wait(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Poll: what is waited for happens on SAGE's thread, which tells nobody."""
    ticks = threading.Event()
    for _ in range(int(timeout_s / 0.002)):
        if condition():
            return
        ticks.wait(0.002)
    raise TimeoutError("it did not happen")
