"""Affinity that ends where it would hurt.

Every affine routing ranks the rows by how much they suit the request and takes the best one whose
load stays within a bound: ceil(factor * (m + 1) * share), `m` being the nodes of all rows and
`share` the row's part of their slots (1/n among equals). So nobody ever holds more than `factor`
times its part, however many requests want to go there (Mirrokni et al., bounded loads).

Near saturation even that hurts: who waits for the room of a favourite leaves others idle. The guard
lets go at `let_go` of the slots in use and holds on again below `hold`. And slots say nothing of
prompts that wait for their prefill: where one worker has more of that before it than another by all
that this prompt could save, a whole prefill of its own, it counts as over the bound, too.
"""

from __future__ import annotations

from abc import abstractmethod
from math import ceil
from typing import Any, ClassVar

import msgspec
import numpy as np

from sage_llm_ops.scheduler_ir.routing import keys
from sage_llm_ops.scheduler_ir.routing.base import Choice, Costs, Routing, Rows, least, load_share
from sage_llm_ops.scheduler_ir.routing.held import held
from sage_llm_ops.scheduler_ir.routing.predicted_latency import behind
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class BoundedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`factor`: how far above its part of the load a worker may go."""

    factor: float = 1.25
    let_go: float = 0.9
    hold: float = 0.75

    def __post_init__(self) -> None:
        if not self.factor >= 1.0:
            raise ValueError(f"factor={self.factor!r} must be at least 1")
        if not 0.0 < self.hold <= self.let_go:
            raise ValueError(
                f"hold={self.hold!r} must be above 0 and at most let_go={self.let_go!r}"
            )


class Guard:
    """Whether affinity is worth it just now."""

    def __init__(self, let_go: float, hold: float) -> None:
        self._let_go, self._hold = let_go, hold
        self.on = True

    def look(self, fleet: FleetView, rows: Rows) -> float:
        """The share of slots in use among all workers for the request; moves `on`."""
        used = float(fleet.running[rows].sum()) / float(fleet.slots[rows].sum())
        if self.on and used >= self._let_go:
            self.on = False
        elif not self.on and used < self._hold:
            self.on = True
        return used


class Bounded(Routing):
    """Base of the affine routings."""

    unit: ClassVar[str] = "rank by affinity; those over the bound behind all others"
    Options = BoundedOptions
    predicts: ClassVar[bool] = True
    guarded: ClassVar[bool] = True

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._guard = Guard(self.options.let_go, self.options.hold)

    @abstractmethod
    def suits(self, offer: Offer, fleet: FleetView, rows: Rows) -> tuple[Costs, str]:
        """How far each row is from the request's home (0 is home), and what that home is."""

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        used = self._guard.look(fleet, fleet.serving(offer.job.needs))
        if self.guarded and not self._guard.on:
            shares = load_share(fleet, rows)
            reason = f"affinity let go: {used:.0%} of the slots are in use; least loaded"
            return Choice(least(shares, fleet, rows), shares, reason)
        costs, home = self.suits(offer, fleet, rows)
        over = self._over(fleet, rows)
        if self.guarded:
            over |= behind(offer, fleet, rows)
        if over.any():
            costs = costs + over * (1.0 + costs.max())
        row = least(costs, fleet, rows)
        bound = "" if not over.any() else f"; {int(over.sum())} over the bound"
        return Choice(row, costs, home + bound)

    def _over(self, fleet: FleetView, rows: Rows) -> Any:
        """Rows that one more node would bring above their bound; never all of them."""
        running, slots = fleet.running[rows], fleet.slots[rows]
        total = self.options.factor * (int(running.sum()) + 1) / int(slots.sum())
        return running + 1 > np.ceil(total * slots - 1e-9)


def bound(factor: float, m: int, n: int) -> int:
    """What `m` nodes over `n` equal workers may come to on one of them, the next one included."""
    return ceil(factor * (m + 1) / n)


class BoundedHash(Bounded):
    """Home by the prompt's beginning, by rendezvous hashing, with bounded loads and no guard: the
    plain algorithm, to compare the others with."""

    name: ClassVar[str] = "bounded_hash"
    predicts: ClassVar[bool] = False
    guarded: ClassVar[bool] = False

    def suits(self, offer: Offer, fleet: FleetView, rows: Rows) -> tuple[Costs, str]:
        return _ranks(keys.of_prefix(offer.job.request), fleet, rows), "home of its beginning"


class Affinity(Bounded):
    """A tenant's requests go to one worker, where its conversations are warm."""

    name: ClassVar[str] = "affinity"

    def suits(self, offer: Offer, fleet: FleetView, rows: Rows) -> tuple[Costs, str]:
        return _ranks(keys.of_tenant(offer.job.request), fleet, rows), "home of its tenant"


class Locality(Bounded):
    """Where most of the prompt is already; where nobody knows, home by its beginning."""

    name: ClassVar[str] = "locality"

    def suits(self, offer: Offer, fleet: FleetView, rows: Rows) -> tuple[Costs, str]:
        request = offer.job.request
        if offer.hits:
            known = held(offer, fleet, rows)
            if known.any():
                return float(request.n_prompt) - known, "holds most of its prompt"
        return _ranks(keys.of_prefix(request), fleet, rows), "home of its beginning"


class TopologyAware(Bounded):
    """Near the worker that holds its prefix, or near its tenant's home: same worker, same host, same
    rack, anywhere. Places are the instances' `location`, written from the outside in, or what a
    worker process finds in NVML and sysfs (`comm_backend/topology.py`)."""

    name: ClassVar[str] = "topology_aware"
    unit: ClassVar[str] = "levels away, plus share of slots in use"

    def suits(self, offer: Offer, fleet: FleetView, rows: Rows) -> tuple[Costs, str]:
        request = offer.job.request
        known = held(offer, fleet, rows) if offer.hits else None
        if known is not None and known.any():
            home, what = int(rows[known == known.max()][0]), "holder of its prefix"
        else:
            ranks = _ranks(keys.of_tenant(request), fleet, rows)
            home, what = int(rows[ranks == ranks.min()][0]), "home of its tenant"
        place = fleet.traits.place
        levels = [0 if row == home else distance(place[home], place[row]) for row in rows.tolist()]
        return np.array(levels, dtype=float) + 0.5 * load_share(fleet, rows), f"near the {what}"


def distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """1: the same place; one more for each level in which they differ."""
    same = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        same += 1
    return 1 + max(len(a), len(b)) - same


def _ranks(key: int, fleet: FleetView, rows: Rows) -> Costs:
    """0 for the highest score, up to 1."""
    scores = keys.rendezvous(key, fleet.traits.mix[rows])
    return 1.0 - scores / float(scores.max()) if rows.size else np.zeros(0)
