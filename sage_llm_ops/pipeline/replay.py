"""The replay driver: what was recorded goes through the same graph; decisions must be the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sage.runtime import StopSignal

from sage_llm_ops.operators import OPERATORS, Operator, Plane
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.sage_graph import close, wire
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.types.errors import ReplayMismatch
from sage_llm_ops.types.events import Event, Job, Outcome
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.plans import PlanNode


class ReplaySource:
    """Events with the stamps they had; timers are in the log and need not be kept."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self.count = 0

    def __call__(self) -> Any:
        event = next(self._events, None)
        if event is None:
            return StopSignal("end of recording")
        self.count += 1
        return event

    def at(self, when: float, kind: str, key: str, *, daemon: bool = False) -> None:
        """Nothing: it fired or not as recorded."""

    def cancel(self, kind: str, key: str) -> None:
        """Nothing: the same."""


class NoHands:
    """Nothing leaves a replay."""

    def execute(self, node: PlanNode, job: Job) -> None:
        """What became of it is in the log."""

    def cancel(self, node: NodeId, worker: WorkerId) -> None:
        """The same."""

    def deliver(self, outcome: Outcome) -> None:
        """Its caller has been told long ago."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay showed."""

    events: int
    decisions: int
    digest: str
    recorded: str | None
    """None where the recording was cut off."""
    seconds: float

    @property
    def same(self) -> bool | None:
        """Whether all decisions were the same; None where there is nothing to compare with."""
        return None if self.recorded is None else self.recorded == self.digest

    def checked(self) -> Replay:
        """Itself, or `ReplayMismatch`."""
        if self.same is False:
            raise ReplayMismatch(
                f"recorded digest {self.recorded}, replayed {self.digest}: this version, or an option "
                "of the pipeline, decides otherwise"
            )
        return self


def replay(
    recording: Recording,
    spec: PipelineSpec,
    *,
    registry: Mapping[str, type[Operator]] = OPERATORS,
    ledger: Ledger | None = None,
) -> Replay:
    """Feed a recording through the graph of `spec` (the recorded one, or another to compare)."""
    graph = check(spec, registry)
    source = ReplaySource(recording.events())
    book = ledger or Ledger(keep=1)
    plane = Plane(source, NoHands(), book)
    env = wire(graph, graph.operators(plane), source)
    began = time.perf_counter()
    try:
        env.submit(autostop=True)
    finally:
        close(env)
    seconds = time.perf_counter() - began
    footer = recording.footer
    recorded = footer.digest if footer else None
    return Replay(source.count, book.decisions, book.digest, recorded, seconds)


def dry_run(spec: PipelineSpec, registry: Mapping[str, type[Operator]] = OPERATORS) -> None:
    """Refuse what would be refused when a run of `spec` begins; nothing is kept."""
    source = ReplaySource(iter(()))
    check(spec, registry).operators(Plane(source, NoHands(), Ledger(keep=1)))
