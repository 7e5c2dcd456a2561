"""Which operators share a SAGE function.

SAGE's dispatch costs about as much as an operator of ours, and a request passes twenty of them. So
neighbours share one function, as dataflow engines chain their operators: the graph stays what the
file says, and so do order and meaning (`fuse=False` runs it unshared, and tests compare the two).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_llm_ops.pipeline.graph import SOURCE, Graph, Kinds, emitted
from sage_llm_ops.types.events import ConfigSet


@dataclass(slots=True)
class Stage:
    """Operators that run one after the other in one SAGE function."""

    links: list[str]
    reads: list[str]
    """What it reads: other stages' last operators, or the source."""
    back: set[str] = field(default_factory=set)
    """Those of them that come later."""
    sides: dict[str, list[list[str]]] = field(default_factory=dict)
    """By operator: chains that end in a sink and read it beside the next link."""

    def shape(self, graph: Graph) -> str:
        """What SAGE must take it for."""
        shapes = [graph.kinds[op].shape for op in self.links]
        if shapes[-1] == "sink":
            return "sink"
        return "flatmap" if "flatmap" in shapes else "map"


def stages(graph: Graph, *, fuse: bool = True) -> list[Stage]:
    """The graph's operators, grouped; in the order of the file."""
    if not fuse:
        return [Stage([op], list(reads), _back(graph, op)) for op, reads in graph.inputs.items()]
    readers = _readers(graph)
    sides = _sides(graph, readers)
    aside = {op for chains in sides.values() for chain in chains for op in chain}
    leaving = emitted(graph)
    found: list[Stage] = []
    ends: dict[str, Stage] = {}
    for op, reads in graph.inputs.items():
        if op in aside:
            continue
        back = _back(graph, op)
        ahead = [name for name in reads if name not in back]
        stage = ends.get(ahead[0]) if len(ahead) == 1 else None
        if stage is not None and not (
            [reader for reader in readers[ahead[0]] if reader not in aside] == [op]
            and all(_untouched(graph, stage, leaving[name]) for name in back)
        ):
            stage = None
        if stage is None:
            stage = Stage([op], list(reads), back)
            found.append(stage)
        else:
            del ends[ahead[0]]
            stage.links.append(op)
            stage.reads += sorted(back)
            stage.back |= back
        ends[op] = stage
        if op in sides:
            stage.sides[op] = sides[op]
    return found


def _back(graph: Graph, op: str) -> set[str]:
    return {name for name in graph.inputs[op] if (name, op) in graph.feedback}


def _readers(graph: Graph) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {name: [] for name in (SOURCE, *graph.inputs)}
    for op, reads in graph.inputs.items():
        for name in reads:
            readers[name].append(op)
    return readers


def _sides(graph: Graph, readers: dict[str, list[str]]) -> dict[str, list[list[str]]]:
    """Chains of maps that read one operator, which has other readers, and end in a sink."""
    found: dict[str, list[list[str]]] = {}
    for op, reads in graph.inputs.items():
        start = reads[0]
        if len(reads) > 1 or start == SOURCE or len(readers[start]) == 1:
            continue
        chain = [op]
        while graph.kinds[chain[-1]].shape == "map":
            after = readers[chain[-1]]
            if len(after) != 1 or len(graph.inputs[after[0]]) != 1:
                break
            chain.append(after[0])
        others = [
            name for name in readers[start] if name != op and [name] not in found.get(start, [])
        ]
        if graph.kinds[chain[-1]].shape == "sink" and others:
            found.setdefault(start, []).append(chain)
    return found


def _untouched(graph: Graph, stage: Stage, kinds: Kinds) -> bool:
    """Whether these events, let in at its head, come out of a stage as if they had not been there."""
    beside = [op for chains in stage.sides.values() for chain in chains for op in chain]
    for op in (*stage.links, *beside):
        kind = graph.kinds[op]
        if not kinds.isdisjoint(kind.takes) or (kind.live and ConfigSet in kinds):
            return False
    return all(
        passes is None or kinds <= frozenset(passes)
        for passes in (graph.kinds[op].passes for op in stage.links)
    )
