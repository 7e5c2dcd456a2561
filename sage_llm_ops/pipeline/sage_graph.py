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
from sage_llm_ops.pipeline.stages import Stage, stages


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


Link = tuple[Operator, Sequence["Chain"]]
"""An operator, and the side chains that are told of what comes out of it."""


class Chain:
    """Operators run one after the other as one SAGE function (see `stages`).

    Several events out of one operator go through the next one together, as SAGE's breadth-first
    dispatch would have it. A handler that raises becomes a value: an exception would kill the
    source's thread.
    """

    def __init__(self, links: Sequence[Link]) -> None:
        super().__init__()
        self._links = [
            (op, op.handlers(), None if op.passes is None else frozenset(op.passes), sides)
            for op, sides in links
        ]

    def execute(self, event: Any) -> Any:
        for place, (operator, handlers, passes, sides) in enumerate(self._links):
            handler = handlers.get(event.__class__)
            if handler is not None:
                try:
                    event = handler(event)
                except Exception as error:
                    event = operator.failed(event, error)
                if event.__class__ is list:
                    if len(event) > 1:
                        return self._several(event, place)
                    event = event[0] if event else None
                if event is None:
                    return None
            elif passes is not None and event.__class__ not in passes:
                return None
            for side in sides:
                side.execute(event)
        return event

    def _several(self, events: list[Any], place: int) -> list[Any]:
        """Go on with what came out of the operator at `place`."""
        for at in range(place, len(self._links)):
            operator, handlers, passes, sides = self._links[at]
            if at > place:
                events = _through(operator, handlers, passes, events)
            for side in sides:
                for event in events:
                    side.execute(event)
        return events


def _through(
    operator: Operator,
    handlers: dict[type[Any], Callable[[Any], Any]],
    passes: frozenset[type[Any]] | None,
    events: list[Any],
) -> list[Any]:
    """What comes out of one operator for several events."""
    out: list[Any] = []
    for event in events:
        handler = handlers.get(event.__class__)
        if handler is not None:
            try:
                made = handler(event)
            except Exception as error:
                made = operator.failed(event, error)
            out += made if made.__class__ is list else () if made is None else (made,)
        elif passes is None or event.__class__ in passes:
            out.append(event)
    return out


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


def wire(
    graph: Graph, operators: dict[str, Operator], get: Callable[[], Any], *, fuse: bool = True
) -> LocalEnvironment:
    """The SAGE environment of the graph, not yet submitted."""
    silence_sage()
    env = LocalEnvironment(graph.spec.name)
    env.set_console_log_level("ERROR")
    streams: dict[str, Any] = {SOURCE: env.from_source(Intake, get, delay=0.0)}
    futures: dict[str, Any] = {start: env.from_future(start) for start, _ in sorted(graph.feedback)}
    for stage in stages(graph, fuse=fuse):
        tail = stage.links[-1]
        reads = [futures[name] if name in stage.back else streams[name] for name in stage.reads]
        links = [(operators[op], _side_chains(stage, op, operators)) for op in stage.links]
        stream = _attach(env, reads, stage.shape(graph), links)
        if graph.kinds[tail].shape != "sink":
            streams[tail] = stream
            if tail in futures:
                stream.fill_future(futures[tail])
    return env


def _side_chains(stage: Stage, op: str, operators: dict[str, Operator]) -> list[Chain]:
    return [Chain([(operators[name], ()) for name in side]) for side in stage.sides.get(op, ())]


def _attach(env: LocalEnvironment, reads: list[Any], shape: str, links: Sequence[Link]) -> Any:
    """A stage over one stream or several. SAGE's connected streams offer a join for maps alone, so a
    flatmap over several is attached as they attach a map, which spares a function that only joins."""
    if len(reads) == 1:
        return getattr(reads[0], shape)(STAGES[shape], links)
    stage = TRANSFORMATIONS[shape](env, STAGES[shape], links)
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
