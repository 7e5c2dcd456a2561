"""What the compiler refuses, in words a user can act on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sage_llm_ops.config import load_pipeline
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.operators import OPERATORS, Operator, Plane
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.replay import NoHands, ReplaySource
from sage_llm_ops.pipeline.stages import stages
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.types.errors import ConfigError, PipelineError, SageLlmOpsError, UnknownName
from sage_llm_ops.types.events import Cancel, Offer, Placed
from sage_llm_ops.types.pipelines import OperatorSpec, PipelineSpec

FILE = "p.toml"
SERVING = Path(__file__).parents[2] / "pipelines" / "serving.toml"


class Loose(Operator):
    """Emits what nobody takes."""

    name = "loose"
    takes = {Cancel: "cancel"}
    emits = (Offer,)


class Starved(Operator):
    """Wants what never comes by."""

    name = "starved"
    takes = {Offer: "offer"}


REGISTRY = {**OPERATORS, **{kind.name: kind for kind in (Loose, Starved)}}


def edited(edit: Callable[[list[OperatorSpec]], None]) -> PipelineSpec:
    """The serving graph as if it stood in a file, with one change."""
    made = [
        OperatorSpec(
            op.use,
            op.name,
            op.inputs,
            dict(op.options),
            line=10 * (n + 1),
            option_lines=dict.fromkeys(op.options, 10 * (n + 1) + 2),
        )
        for n, op in enumerate(serving().operators)
    ]
    edit(made)
    return PipelineSpec("p", tuple(made), file=FILE)


def put(n: int, **fields: object) -> Callable[[list[OperatorSpec]], None]:
    """Replace fields of the n-th operator."""

    def edit(ops: list[OperatorSpec]) -> None:
        old = {name: getattr(ops[n], name) for name in OperatorSpec.__slots__}
        ops[n] = OperatorSpec(**{**old, **fields})

    return edit


def insert(n: int, use: str, **fields: object) -> Callable[[list[OperatorSpec]], None]:
    return lambda ops: ops.insert(n, OperatorSpec(use, line=99, **fields))


OBSERVE, ADMIT, ADVANCE, EXECUTE, RECOVER, SCHEDULE, PREFIX, SPLIT, ROUTE, MEASURE, DELIVER = range(
    11
)

REFUSED = [
    (put(ROUTE, use="rout"), UnknownName, [FILE, "90", "'rout'", "did you mean 'route'"]),
    (put(ADMIT, inputs=("observe", "rote")), UnknownName, [FILE, "20", "'rote'", "'route'"]),
    (
        put(SCHEDULE, options={"stratgy": "fifo"}, option_lines={"stratgy": 62}),
        UnknownName,
        [FILE, "62", "'stratgy'", "did you mean 'strategy'"],
    ),
    (
        put(SCHEDULE, options={"strategy": "fifi"}, option_lines={"strategy": 62}),
        UnknownName,
        [FILE, "62", "'fifi'", "did you mean 'fifo'", "priority"],
    ),
    (
        put(
            SCHEDULE,
            options={"strategy": "fair", "options": {"late_evry": 3}},
            option_lines={"strategy": 62, "options": 63},
        ),
        UnknownName,
        [FILE, "63", "'late_evry'", "'late_every'"],
    ),
    (
        put(
            ROUTE,
            options={"strategy": "bounded_hash", "options": {"factor": 0.1}},
            option_lines={"strategy": 92, "options": 93},
        ),
        ConfigError,
        [FILE, "93", "`factor`", "factor=0.1 must be at least 1"],
    ),
    (
        put(ROUTE, options={"strategy": "load_balance"}, option_lines={"strategy": 92}),
        UnknownName,
        [FILE, "92", "'load_balance'", "'load_balanced'"],
    ),
    (
        put(SPLIT, options={"policy": "nevr"}, option_lines={"policy": 82}),
        UnknownName,
        [FILE, "82", "'nevr'", "'never'"],
    ),
    (
        put(ADMIT, options={"max_pending": "many"}, option_lines={"max_pending": 22}),
        ConfigError,
        [FILE, "22", "max_pending", "'many'", "int"],
    ),
    (insert(3, "admit"), ConfigError, [FILE, "99", "'admit' stands twice", "`name`"]),
    (insert(3, "measure", name="source"), ConfigError, [FILE, "99", "'source'", "`name`"]),
    (put(MEASURE, inputs=("measure",)), ConfigError, [FILE, "100", "'measure' reads itself"]),
    (put(MEASURE, inputs=()), ConfigError, [FILE, "100", "reads nobody", "inputs"]),
    (
        put(MEASURE, inputs=("schedule", "schedule")),
        ConfigError,
        [FILE, "100", "'schedule' twice", "once"],
    ),
    (put(MEASURE, inputs=("execute",)), PipelineError, [f"{FILE}:40", "'execute' is a sink"]),
    (
        put(ADMIT, inputs=("observe",)),
        PipelineError,
        [f"{FILE}:90", "nobody reads 'route'", "inputs"],
    ),
    (
        lambda ops: (put(OBSERVE, inputs=("route",))(ops), put(ADMIT, inputs=("observe",))(ops)),
        PipelineError,
        ["no operator reads the source"],
    ),
    (
        lambda ops: (insert(1, "starved")(ops), put(2, inputs=("starved", "route"))(ops)),
        PipelineError,
        [f"{FILE}:99", "nothing that 'starved' takes (Offer) reaches it", "Arrive"],
    ),
    (
        lambda ops: (insert(1, "loose")(ops), put(2, inputs=("loose", "route"))(ops)),
        PipelineError,
        [f"{FILE}:99", "'loose' emits Offer", "nobody after it takes", "put an operator"],
    ),
    (
        put(ADMIT, inputs=("observe", "route", "schedule")),
        PipelineError,
        ["Offer, Outcome would go round", "'schedule' back to 'admit'", "let it read"],
    ),
]


@pytest.mark.parametrize(("edit", "kind", "said"), REFUSED)
def test_refused_with_value_place_and_fix(
    edit: Callable[[list[OperatorSpec]], None], kind: type[SageLlmOpsError], said: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        graph = check(edited(edit), REGISTRY)
        graph.operators(Plane(ReplaySource(iter(())), NoHands(), Ledger()))
    for word in said:
        assert word in str(caught.value), str(caught.value)


def test_the_shipped_file_is_the_default_graph() -> None:
    graph = check(load_pipeline(SERVING, environ={}), OPERATORS)
    again = check(serving(), OPERATORS)
    assert graph.inputs == again.inputs
    assert graph.feedback == again.feedback == {("route", "admit")}


def test_neighbours_share_a_stage() -> None:
    graph = check(serving(), OPERATORS)
    (stage,) = stages(graph)
    assert stage.links == [
        *["observe", "admit", "advance", "recover"],
        *["schedule", "prefix_lookup", "pd_split", "route"],
    ]
    assert stage.sides == {"advance": [["execute"]], "schedule": [["measure", "deliver"]]}
    assert (stage.reads, stage.back, stage.shape(graph)) == (
        ["source", "route"],
        {"route"},
        "flatmap",
    )
    assert [stage.links for stage in stages(graph, fuse=False)] == [
        [op.id] for op in graph.spec.operators
    ]


def test_what_comes_back_is_not_shown_to_who_does_not_read_it() -> None:
    """`peek` would take a placement and does not read `route`: so `admit`, which does, begins anew."""

    class Peek(Operator):
        name = "peek"
        takes = {Cancel: "pass_on", Placed: "pass_on"}
        emits = (Cancel, Placed)

    def insert(ops: list[OperatorSpec]) -> None:
        ops.insert(1, OperatorSpec("peek", None, ("observe",), {}))
        ops[2] = replace(ops[2], inputs=("peek", "route"))

    found = stages(check(edited(insert), {**OPERATORS, "peek": Peek}))
    assert [stage.links[0] for stage in found] == ["observe", "admit"]
    assert found[0].links == ["observe", "peek"]
    assert found[1].reads == ["peek", "route"]
