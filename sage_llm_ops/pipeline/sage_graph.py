"""The one place where our operators become SAGE functions."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
    """Let only SAGE's errors through; idempotent."""
    logger = logging.getLogger("sage")
    if not any(isinstance(known, Quiet) for known in logger.filters):
        logger.addFilter(Quiet())


class Intake(SourceFunction):  # type: ignore[misc]
    """The one source: whatever the driver's `get` gives."""

    def __init__(self, get: Callable[[], Any]) -> None:
        super().__init__()
        self._get = get

    def execute(self) -> Any:
        return self._get()


class Guard:
    """Calls the operator's handler for an event; a raised error becomes a value.

    Built twice by SAGE, so it holds nothing of its own.
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__()
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


class GuardedMap(Guard, MapFunction):  # type: ignore[misc]
    """One event in, at most one out."""


class GuardedFlatMap(Guard, FlatMapFunction):  # type: ignore[misc]
    """One event in, any number out."""


class GuardedSink(Guard, SinkFunction):  # type: ignore[misc]
    """One event in, nothing out."""


class Merge(MapFunction):  # type: ignore[misc]
    """Joins several inputs for a flatmap or a sink: SAGE's connected streams offer only a map."""

    def execute(self, event: Any) -> Any:
        return event


def wire(graph: Graph, operators: dict[str, Operator], get: Callable[[], Any]) -> LocalEnvironment:
    """The SAGE environment of the graph, not yet submitted."""
    silence_sage()
    env = LocalEnvironment(graph.spec.name)
    env.set_console_log_level("ERROR")
    streams: dict[str, Any] = {SOURCE: env.from_source(Intake, get, delay=0.0)}
    futures: dict[str, Any] = {start: env.from_future(start) for start, _ in sorted(graph.feedback)}
    for op in graph.spec.operators:
        operator = operators[op.id]
        reads = [
            futures[name] if (name, op.id) in graph.feedback else streams[name]
            for name in graph.inputs[op.id]
        ]
        stream = reads[0]
        for other in reads[1:]:
            stream = stream.connect(other)
        if len(reads) > 1 and operator.shape != "map":
            stream = stream.map(Merge)
        stream = _attach(stream, operator)
        if operator.shape != "sink":
            streams[op.id] = stream
            if op.id in futures:
                stream.fill_future(futures[op.id])
    return env


def close(env: LocalEnvironment) -> None:
    """End it for good: SAGE's manager keeps every job until it is told to forget it."""
    uuid = env.env_uuid
    env.close()
    if uuid is not None:
        JobManager().delete_job(uuid, force=True)


def _attach(stream: Any, operator: Operator) -> Any:
    if operator.shape == "map":
        return stream.map(GuardedMap, operator)
    if operator.shape == "flatmap":
        return stream.flatmap(GuardedFlatMap, operator)
    return stream.sink(GuardedSink, operator)
