"""Are the defaults made for the traces that they are shown on?

Every option that matters is tuned on the first third of each trace; the value that was best there and
the default then serve the other two thirds, which neither of them was chosen on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.suites.strategies import Scene, capacity_of, one, part
from sage_llm_ops.scheduler_ir import ROUTINGS, STRATEGIES

LOAD = 1.3
GRID: dict[tuple[str, str], tuple[Any, ...]] = {
    ("slo_aware", "late_every"): (4, 8, 16, 64),
    ("fair", "late_every"): (4, 8, 16, 64),
    ("wspt", "stretch"): (5.0, 10.0, 20.0, 50.0),
    ("adaptive", "pressure"): ((0.02, 0.01), (0.05, 0.01), (0.1, 0.05)),
    ("adaptive", "overload"): ((0.2, 0.1), (0.4, 0.2), (0.6, 0.3)),
    ("adaptive", "dispersion"): ((0.5, 0.3), (1.0, 0.7), (1.5, 1.0)),
    ("locality", "factor"): (1.1, 1.25, 1.5, 2.0),
    ("bounded_hash", "factor"): (1.1, 1.25, 1.5, 2.0),
}


Piece = tuple[Scene, float]
"""A part of a trace, and the requests a second at which it arrives."""


class Row(NamedTuple):
    """What tuning one option on a third of a trace would have brought on the rest."""

    scene: str
    policy: str
    option: str
    default: Any
    best: Any
    with_default: float
    """Requests a second that met their objective, on the rest."""
    with_best: float


def rows(scenes: list[Scene]) -> list[Row]:
    """All options on all scenes."""
    found = []
    for scene in scenes:
        parts = [part(scene, 0.0, 1 / 3), part(scene, 1 / 3, 1.0)]
        pieces = [(piece, capacity_of(piece) * LOAD) for piece in parts]
        found += [_row(*pieces, *name) for name in GRID]
    return found


def _row(first: Piece, rest: Piece, policy: str, option: str) -> Row:
    kind = STRATEGIES[policy] if policy in STRATEGIES else ROUTINGS[policy]
    default = getattr(kind.Options(), option)

    def goodput(where: Piece, value: Any) -> float:
        return one(*where, policy, {option: value}).goodput

    tried = {value: goodput(first, value) for value in GRID[policy, option]}
    best = max(tried, key=lambda value: (tried[value], value == default))
    return Row(
        rest[0].name, policy, option, default, best, goodput(rest, default), goodput(rest, best)
    )
