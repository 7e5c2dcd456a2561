"""The one place where our operators become SAGE functions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from sage.foundation import FlatMapFunction, MapFunction, SinkFunction, SourceFunction
from sage.runtime import JobManager, LocalEnvironment
from sage.stream import DataStream
from sage.stream.transformations import (
    FlatMapTransformation,
    MapTransformation,
    SinkTransformation,
)

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


class Chain:
    """Operators that only feed each other, run as one SAGE function.

    SAGE's dispatch costs about as much as an operator of ours, so neighbours without a branch or a
    join between them share one, and a sink beside other readers runs inside what it reads. Order and
    meaning are those of the unchained graph. A handler that raises becomes a value: an exception
    would kill the source's thread.
    """

    def __init__(self, operators: Sequence[Operator], sinks: Sequence[Operator] = ()) -> None:
        super().__init__()
        self._links = [
            (op, op.handlers(), None if op.passes is None else frozenset(op.passes))
            for op in operators
        ]
        self._sinks = [Chain([sink]) for sink in sinks]
        """Sinks that read what comes out of here, beside others: told before it goes on."""

    def execute(self, event: Any) -> Any:
        out = self._run(event)
        if self._sinks and out is not None:
            for item in out if out.__class__ is list else (out,):
                for sink in self._sinks:
                    sink._run(item)
        return out

    def _run(self, event: Any) -> Any:
        for operator, handlers, passes in self._links:
            kind = event.__class__
            handler = handlers.get(kind)
            if handler is not None:
                try:
                    event = handler(event)
                except Exception as error:
                    event = operator.failed(event, error)
                if event is None:
                    return None
            elif passes is not None and kind not in passes:
                return None
        return event


class MapStage(Chain, MapFunction):
    """One event in, at most one out."""


class FlatMapStage(Chain, FlatMapFunction):
    """One event in, any number out."""


class SinkStage(Chain, SinkFunction):
    """One event in, nothing out."""


STAGES = {"map": MapStage, "flatmap": FlatMapStage, "sink": SinkStage}
TRANSFORMATIONS = {
    "map": MapTransformation,
    "flatmap": FlatMapTransformation,
    "sink": SinkTransformation,
}


def chains(graph: Graph, *, fuse: bool = True) -> list[list[str]]:
    """The graph's operators, grouped into stages: a map joins its only reader, if it is all that
    reader reads. Without `fuse` each operator is a stage."""
    if not fuse:
        return [[spec.id] for spec in graph.spec.operators]
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


def side_sinks(graph: Graph, stages: list[list[str]]) -> dict[str, list[str]]:
    """Sinks that can run inside the stage they read: alone in theirs, reading one operator that ends
    its stage and has other readers. By the operator they read."""
    ends = {stage[-1] for stage in stages}
    found: dict[str, list[str]] = {}
    for (name,) in (stage for stage in stages if len(stage) == 1):
        reads = graph.inputs[name]
        shared = sum(reads[0] in others for others in graph.inputs.values()) > 1
        if graph.kinds[name].shape == "sink" and len(reads) == 1 and reads[0] in ends and shared:
            found.setdefault(reads[0], []).append(name)
    return found


def wire(
    graph: Graph, operators: dict[str, Operator], get: Callable[[], Any], *, fuse: bool = True
) -> LocalEnvironment:
    """The SAGE environment of the graph, not yet submitted."""
    silence_sage()
    env = LocalEnvironment(graph.spec.name)
    env.set_console_log_level("ERROR")
    streams: dict[str, Any] = {SOURCE: env.from_source(Intake, get, delay=0.0)}
    futures: dict[str, Any] = {start: env.from_future(start) for start, _ in sorted(graph.feedback)}
    stages = chains(graph, fuse=fuse)
    inside = side_sinks(graph, stages) if fuse else {}
    hidden = {name for names in inside.values() for name in names}
    for stage in stages:
        if stage[0] in hidden:
            continue
        head, tail = stage[0], operators[stage[-1]]
        reads = [
            futures[name] if (name, head) in graph.feedback else streams[name]
            for name in graph.inputs[head]
        ]
        links = [operators[name] for name in stage]
        sinks = [operators[name] for name in inside.get(tail.id, ())]
        stream = _attach(env, reads, tail.shape, links, sinks)
        if tail.shape != "sink":
            streams[tail.id] = stream
            if tail.id in futures:
                stream.fill_future(futures[tail.id])
    return env


def _attach(
    env: LocalEnvironment,
    reads: list[Any],
    shape: str,
    links: list[Operator],
    sinks: list[Operator],
) -> Any:
    """A stage over one stream or several. SAGE's connected streams offer a join for maps alone, so a
    flatmap over several is attached as they attach a map, which spares a function that only joins."""
    if len(reads) == 1:
        return getattr(reads[0], shape)(STAGES[shape], links, sinks)
    stage = TRANSFORMATIONS[shape](env, STAGES[shape], links, sinks)
    for index, stream in enumerate(reads):
        stage.add_upstream(stream.transformation, input_index=index)
    env.pipeline.append(stage)
    return DataStream(env, stage)


def close(env: LocalEnvironment) -> None:
    """End it for good: SAGE's manager keeps every job until it is told to forget it."""
    uuid = env.env_uuid
    env.close()
    if uuid is not None:
        manager = JobManager()
        manager.delete_job(uuid, force=True)
        manager.deleted_jobs.pop(uuid, None)
