"""From a spec to a SAGE graph: the checks that are possible before anything runs.

The graph is a list of operators, each naming whom it reads. A name that comes later in the list is
a feedback edge. SAGE accepts an unfilled future, an operator nobody reads and an event nobody takes
in silence; all three are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from sage_llm_ops.operators.base import Operator, read_options
from sage_llm_ops.operators.plane import Plane
from sage_llm_ops.types.errors import ConfigError, PipelineError, PluginError, UnknownName
from sage_llm_ops.types.events import Broken, Deliverable, Inner, Recorded
from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec

SOURCE = "source"
Kinds = frozenset[type[Any]]


@dataclass(frozen=True, slots=True)
class Graph:
    """A checked spec: operators by id and the edges between them."""

    spec: PipelineSpec
    kinds: dict[str, type[Operator]]
    inputs: dict[str, tuple[str, ...]]
    feedback: frozenset[tuple[str, str]]
    """Edges (from, to) that lead back."""

    def operators(self, plane: Plane) -> dict[str, Operator]:
        """One operator object each, for one run."""
        made = {}
        for op in self.spec.operators:
            kind = self.kinds[op.id]
            try:
                made[op.id] = kind(plane, self._options(op), op.id)
            except ConfigError as error:
                own = op.options.get("options")  # of the policy that it has: they stand in one line
                nested = isinstance(own, dict) and error.key in own
                line = op.option_lines.get("options" if nested else error.key or "", op.line)
                error.at(file=self.spec.file, line=line, key=error.key)
                raise
        return made

    def _options(self, op: OperatorSpec) -> Any:
        return read_options(
            self.kinds[op.id].Options,
            op.options,
            owner=f"operator {op.id!r}",
            file=self.spec.file,
            line=op.line,
            lines=op.option_lines,
        )


def check(spec: PipelineSpec, registry: Mapping[str, type[Operator]]) -> Graph:
    """The graph of `spec`, or `ConfigError`, `UnknownName`, `PipelineError` with file and line."""
    kinds: dict[str, type[Operator]] = {}
    for op in spec.operators:
        if op.use not in registry:
            raise UnknownName("operator", op.use, registry, file=spec.file, line=op.line, key="use")
        if op.id in kinds or op.id == SOURCE:
            raise ConfigError(
                f"operator {op.id!r} stands twice; give one a `name`", file=spec.file, line=op.line
            )
        try:
            kinds[op.id] = registry[op.use]
        except PluginError as error:
            error.at(file=spec.file, line=op.line, key="use")
            raise
    inputs = _inputs(spec, kinds)
    order = {op.id: number for number, op in enumerate(spec.operators)}
    back = frozenset(
        (a, b) for b, reads in inputs.items() for a in reads if order.get(a, -1) > order[b]
    )
    graph = Graph(spec, kinds, inputs, back)
    _check_shapes(graph)
    _check_flow(graph)
    for op in spec.operators:
        graph._options(op)
    return graph


def _inputs(spec: PipelineSpec, kinds: dict[str, type[Operator]]) -> dict[str, tuple[str, ...]]:
    inputs: dict[str, tuple[str, ...]] = {}
    before = SOURCE
    for op in spec.operators:
        reads = (before,) if op.inputs is None else tuple(op.inputs)
        for place, name in enumerate(reads):
            if name in reads[:place]:
                raise ConfigError(
                    f"{op.id!r} reads {name!r} twice, and would see every event twice; name it once",
                    file=spec.file,
                    line=op.line,
                    key="inputs",
                )
            if name != SOURCE and name not in kinds:
                known = [SOURCE, *kinds]
                raise UnknownName("input", name, known, file=spec.file, line=op.line, key="inputs")
            if name == op.id:
                raise ConfigError(f"{op.id!r} reads itself", file=spec.file, line=op.line)
        if not reads:
            raise ConfigError(
                f"{op.id!r} reads nobody; name its inputs", file=spec.file, line=op.line
            )
        inputs[op.id] = reads
        before = op.id
    return inputs


def _check_shapes(graph: Graph) -> None:
    spec = graph.spec
    read = {name for reads in graph.inputs.values() for name in reads}
    if SOURCE not in read:
        raise PipelineError(
            f'pipeline {spec.name!r}: no operator reads the source; give one `inputs = ["source"]`'
        )
    for op in spec.operators:
        sink = graph.kinds[op.id].shape == "sink"
        if sink and op.id in read:
            raise PipelineError(
                f"{_at(spec, op)}: {op.id!r} is a sink, nothing comes out of it to read; read what it reads"
            )
        if not sink and op.id not in read:
            raise PipelineError(
                f"{_at(spec, op)}: nobody reads {op.id!r}; add it to somebody's inputs"
            )


def emitted(graph: Graph) -> dict[str, Kinds]:
    """What can leave each operator, and the source: every kind of event is followed through the
    graph until nothing changes any more."""
    leaving: dict[str, Kinds] = {SOURCE: frozenset(get_args(Recorded))}
    leaving.update({op: frozenset() for op in graph.inputs})
    changed = True
    while changed:
        changed = False
        for op in graph.inputs:
            out = _out(graph.kinds[op], arriving(graph, leaving, op))
            changed |= out != leaving[op]
            leaving[op] = out
    return leaving


def arriving(graph: Graph, leaving: Mapping[str, Kinds], op: str) -> Kinds:
    """What can reach an operator."""
    return frozenset().union(*(leaving[name] for name in graph.inputs[op]))


def _check_flow(graph: Graph) -> None:
    spec, leaving = graph.spec, emitted(graph)
    for op in spec.operators:
        takes = frozenset(graph.kinds[op.id].takes)
        reach = arriving(graph, leaving, op.id)
        if not takes & reach:
            raise PipelineError(
                f"{_at(spec, op)}: nothing that {op.id!r} takes ({_names(takes)}) reaches it; "
                f"what does: {_names(reach)}; change its inputs"
            )
    for op in spec.operators:
        for kind in graph.kinds[op.id].emits:
            if issubclass(kind, Inner) and not _taken(graph, op.id, kind):
                raise PipelineError(
                    f"{_at(spec, op)}: {op.id!r} emits {kind.__name__} and nobody after it takes that; "
                    "put an operator behind it that does"
                )
    for start, end in sorted(graph.feedback):
        loop = leaving[start] & frozenset(Deliverable)
        if loop:
            raise PipelineError(
                f"pipeline {spec.name!r}: {_names(loop)} would go round from {start!r} back to {end!r} "
                "for ever; let it read an operator behind the one that takes them"
            )


def _out(kind: type[Operator], arriving: Kinds) -> Kinds:
    """What can leave an operator that `arriving` reaches."""
    taken = arriving & frozenset(kind.takes)
    passed = arriving - taken
    if kind.passes is not None:
        passed &= frozenset(kind.passes)
    made = frozenset(kind.emits) if taken else frozenset()
    broken = frozenset({Broken}) if any(issubclass(k, Inner) for k in taken) else frozenset()
    return frozenset() if kind.shape == "sink" else passed | made | broken


def _taken(graph: Graph, start: str, kind: type[Any]) -> bool:
    """Whether somebody whom it reaches takes it; who makes the same kind anew does not pass it on."""
    seen, ahead = set(), [start]
    while ahead:
        here = ahead.pop()
        for op, reads in graph.inputs.items():
            if here in reads and op not in seen:
                seen.add(op)
                reader = graph.kinds[op]
                if kind in reader.takes:
                    return True
                if reader.shape != "sink" and (reader.passes is None or kind in reader.passes):
                    ahead.append(op)
    return False


def _names(kinds: Kinds) -> str:
    return ", ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"


def _at(spec: PipelineSpec, op: OperatorSpec) -> str:
    return f"{spec.file}:{op.line}" if spec.file and op.line else f"pipeline {spec.name!r}"
