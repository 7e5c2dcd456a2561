from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.testing import ManualWorker
from sage_llm_ops.testing.requests import make_request


class Live:
    """A running pipeline with workers that do what the test says."""

    def __init__(self, **settings: Any) -> None:
        given = ("registry", "record", "clock", "remember", "watchdog")
        options = {name: settings.pop(name) for name in given if name in settings}
        self.pipeline = LivePipeline(serving(**settings), **options)
        self.pipeline.start()
        self.workers: dict[str, ManualWorker] = {}

    def add(self, identity: str, slots: int | None = None) -> ManualWorker:
        worker = ManualWorker(identity, self.pipeline.hands, slots=slots)
        self.pipeline.attach(worker)
        worker.start()
        self.workers[identity] = worker
        return worker

    def settled(self) -> None:
        """Everything posted so far has been dispatched."""
        probe = self.pipeline.submit(make_request("settled", model="nobody has it"))
        with pytest.raises(Exception, match="nobody has it"):
            probe.result(5.0)


@pytest.fixture
def live() -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def make(**settings: Any) -> Live:
        made.append(Live(**settings))
        return made[-1]

    yield make
    for one in made:
        one.pipeline.stop(0.0)
