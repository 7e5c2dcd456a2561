"""The one place where our operators become SAGE functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sage.foundation import FlatMapFunction, MapFunction, SinkFunction, SourceFunction
from sage.runtime import JobManager, LocalEnvironment

from sage_llm_ops.operators.base import Operator
from sage_llm_ops.pipeline.graph import SOURCE, Graph


class Quiet(logging.Filter):
    """SAGE resets its log levels whenever a stream is made; a filter on the logger stays."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


def silence_sage() -> None:
    """Let only SAGE's errors through; idempotent. A filter sees its own logger's records alone, so
    the compiler, which reports at every end of a simulation, gets one of its own."""
    for name in ("sage", "sage.runtime.pipeline_compiler"):
        logger = logging.getLogger(name)
        if not any(isinstance(known, Quiet) for known in logger.filters):
            logger.addFilter(Quiet())


class Intake(SourceFunction):
    """The one source: whatever the driver's `get` gives."""

    def __init__(self, get: Callable[[], Any]) -> None:
        super().__init__()
        self._get = get

    def execute(self) -> Any:
        return self._get()


class Guard:
    """Calls the operator's handler for an event; a raised error becomes a value."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self._handlers = operator.handlers()
        self._drops = operator.passes is not None
        self._passes = frozenset(operator.passes or ())

    def execute(self, event: Any) -> Any:
        kind = event.__class__
        handler = self._handlers.get(kind)
        if handler is None:
            return None if self._drops and kind not in self._passes else event
        try:
            return handler(event)
        except Exception as error:
            return self._operator.failed(event, error)


class Chain:
    """Operators that only feed each other, run as one SAGE function.

    SAGE's dispatch costs about as much as an operator of ours, so neighbours without a branch or a
    join between them share one. Order and meaning are those of the unchained graph.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        super().__init__()
        self._guards = [Guard(operator) for operator in operators]

    def execute(self, event: Any) -> Any:
        for guard in self._guards:
            event = guard.execute(event)
            if event is None:
                return None
        return event


class MapStage(Chain, MapFunction):
    """One event in, at most one out."""


class FlatMapStage(Chain, FlatMapFunction):
    """One event in, any number out."""


class SinkStage(Chain, SinkFunction):
    """One event in, nothing out."""


STAGES = {"map": MapStage, "flatmap": FlatMapStage, "sink": SinkStage}


class Merge(MapFunction):
    """Joins several inputs for a flatmap or a sink: SAGE's connected streams offer only a map."""

    def execute(self, event: Any) -> Any:
        return event


def chains(graph: Graph) -> list[list[str]]:
    """The graph's operators, grouped into stages: a map joins its only reader, if it is all that
    reader reads."""
    readers: dict[str, list[str]] = {}
    for op, reads in graph.inputs.items():
        for name in reads:
            readers.setdefault(name, []).append(op)
    stages: list[list[str]] = []
    for spec in graph.spec.operators:
        reads = graph.inputs[spec.id]
        before = reads[0]
        joins = (
            len(reads) == 1
            and before != SOURCE
            and graph.kinds[before].shape == "map"
            and readers[before] == [spec.id]
            and stages[-1][-1] == before
        )
        if joins:
            stages[-1].append(spec.id)
        else:
            stages.append([spec.id])
    return stages


def wire(graph: Graph, operators: dict[str, Operator], get: Callable[[], Any]) -> LocalEnvironment:
    """The SAGE environment of the graph, not yet submitted."""
    silence_sage()
    env = LocalEnvironment(graph.spec.name)
    env.set_console_log_level("ERROR")
    streams: dict[str, Any] = {SOURCE: env.from_source(Intake, get, delay=0.0)}
    futures: dict[str, Any] = {start: env.from_future(start) for start, _ in sorted(graph.feedback)}
    for stage in chains(graph):
        head, tail = stage[0], operators[stage[-1]]
        reads = [
            futures[name] if (name, head) in graph.feedback else streams[name]
            for name in graph.inputs[head]
        ]
        stream = reads[0]
        for other in reads[1:]:
            stream = stream.connect(other)
        if len(reads) > 1 and tail.shape != "map":
            stream = stream.map(Merge)
        function = STAGES[tail.shape]
        stream = getattr(stream, tail.shape)(function, [operators[name] for name in stage])
        if tail.shape != "sink":
            streams[tail.id] = stream
            if tail.id in futures:
                stream.fill_future(futures[tail.id])
    return env


def close(env: LocalEnvironment) -> None:
    """End it for good: SAGE's manager keeps every job until it is told to forget it."""
    uuid = env.env_uuid
    env.close()
    if uuid is not None:
        JobManager().delete_job(uuid, force=True)
