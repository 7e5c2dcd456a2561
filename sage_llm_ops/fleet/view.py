"""The fleet: who is here, what they hold and where there is room. One row a worker (`table.py`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sage_llm_ops.fleet.breaker import BREAKERS, CLOSED, HALF_OPEN, OPEN
from sage_llm_ops.fleet.table import DOWN, DRAINING, GONE, REFUSING, STATES, UP, Table
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import Needs, NodeId, WorkerId

Rows = npt.NDArray[np.intp]
_NO_ROWS: Rows = np.empty(0, dtype=np.intp)


@dataclass(slots=True)
class Reservation:
    """What one node holds on its worker."""

    row: int
    tokens: int
    probe: bool = False
    """Given to a worker whose breaker is half open."""
    heard: bool = False
    """Whether tokens came, as far as somebody who looks at probes has noted it."""
    work_us: int = 0
    """Prefill that it still has before it; 0 from its first token on."""


class Fleet(Table):
    """All workers, their load and the capacity epochs.

    `epoch(needs)` moves whenever room for these needs may have appeared: whoever was refused waits
    for that instead of asking again and again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reservations: dict[NodeId, Reservation] = {}
        self.version = 0
        """Moves when a row changes its meaning; recorded decisions name it."""
        self.prefilling = 0
        """Reservations with prefill before them; 0 where nobody predicts any."""
        self._servers: dict[Needs, set[int]] = {}
        """Rows that came up and serve them, whatever became of them but leaving."""
        self._up: dict[Needs, Rows] = {}
        self._may: dict[Needs, bool] = {}
        self._shortest: dict[Needs, int] = {}
        self._free: dict[Needs, int] = {}
        self._epochs: dict[Needs, int] = {}
        self._forgotten = 0
        """The highest epoch of needs that nobody serves any more: theirs must not come again."""
        self._leaving: set[int] = set()
        """Rows that were told to drain: a restart does not end that, only leaving does."""
        self._away: set[int] = set()
        """Rows whose next definition is on its way: it may join without having gone."""
        self._probes: dict[int, int] = {}
        """Rows whose breaker is half open, and the probes on each: none or one."""

    # -- membership ---------------------------------------------------------------------------

    def join(
        self,
        worker: WorkerId,
        *models: str,
        role: str = "general",
        price: float = 0.0,
        place: str = "",
    ) -> None:
        """Register a worker that may serve these names once it is up."""
        row = self.rows.get(worker)
        if row is None:
            row = self._take(worker)
            self._probes.pop(row, None)
            self._forget()
        elif self.state[row] != GONE and row not in self._away:
            raise IntegrityError(f"worker {worker!r} joined twice")
        self.traits.join(row, worker, role, price, place)
        self._models[row] = models
        self._offer(row, ())
        self.state[row] = DOWN
        self._leaving.discard(row)
        self._away.discard(row)
        self._may.clear()
        self.version += 1

    def up(
        self,
        worker: WorkerId,
        models: tuple[str, ...],
        slots: int,
        max_len: int,
        tasks: tuple[str, ...],
    ) -> None:
        """The worker takes nodes from now on."""
        if self.left(worker):
            return  # only `join` brings it back
        row = self.rows[worker]
        before = self._serves[row]
        self._models[row] = models
        offered = [
            (model, task, pin)
            for model in dict.fromkeys(models)
            for task in tasks
            for pin in ("", worker)
        ]
        self._offer(row, tuple(offered))
        self._lengths[row] = max_len
        self.slots[row] = slots
        self.state[row] = DRAINING if row in self._leaving else UP
        self._break(row, CLOSED)  # another process, another chance
        self._refresh(dict.fromkeys((*before, *self._serves[row])))

    def down(self, worker: WorkerId, *, gone: bool = False) -> None:
        """Nothing goes there until it is up again. What it held is released by whoever knows it."""
        row = self.rows.get(worker)
        if row is None or (self.state[row] == GONE and not gone):
            return
        if gone:
            self._away.discard(row)
        self._fall(row, GONE if gone else DOWN)

    def away(self, worker: WorkerId) -> None:
        """As `down`, until it joins again, with another definition. So nobody who can be served by
        this worker alone is told that there is none."""
        row = self.rows.get(worker)
        if row is None:
            return
        self._away.add(row)
        self._fall(row, DOWN)

    def drain(self, worker: WorkerId) -> None:
        """Nothing new goes there."""
        if self.left(worker):
            return
        row = self.rows[worker]
        self._leaving.add(row)
        if self.state[row] in (UP, REFUSING):
            self.state[row] = DRAINING
            self._refresh(self._serves[row])

    def refuses(self, worker: WorkerId) -> bool:
        """It did not take what it was given: it has died, and the word of it is on its way. Nothing
        goes there until that comes, or `forgive`. False where that was known."""
        row = self.rows[worker]
        if self.state[row] != UP:
            return False
        self.state[row] = REFUSING
        self._refresh(self._serves[row])
        return True

    def forgive(self, worker: WorkerId) -> None:
        """Nothing was heard of its death: it may try again."""
        row = self.rows.get(worker)
        if row is not None and self.state[row] == REFUSING:
            self.state[row] = UP
            self._refresh(self._serves[row])

    def set_breaker(self, row: int, state: int) -> None:
        """How far it is trusted: all its slots, one probe at a time, or nothing."""
        self._break(row, state)
        self._refresh(self._serves[row])

    # -- load ---------------------------------------------------------------------------------

    def reserve(self, node: NodeId, row: int, tokens: int, work_us: int = 0) -> None:
        """Take one slot and `tokens` of a worker, until `release` with the same id."""
        if node in self.reservations:
            raise IntegrityError(f"node {node} is reserved twice")
        held = self.reservations[node] = Reservation(row, tokens, work_us=work_us)
        if work_us:
            self.work_us[row] += work_us
            self.prefilling += 1
        self.running[row] += 1
        self.tokens[row] += tokens
        self.assigned[row] += 1
        if self._probes and row in self._probes:
            held.probe = True
            self._probes[row] += 1
        if self.state[row] == UP and self.running[row] <= self.limit[row]:
            for needs in self._serves[row]:
                self._free[needs] -= 1

    def begun(self, node: NodeId) -> None:
        """Its first token came: its prefill is over."""
        held = self.reservations.get(node)
        if held is not None and held.work_us:
            self._begin(held)

    def release(self, node: NodeId) -> Reservation | None:
        """Give back what `node` holds, or None where it holds nothing (any more)."""
        held = self.reservations.pop(node, None)
        if held is None:
            return None
        row = held.row
        self.running[row] -= 1
        self.tokens[row] -= held.tokens
        if held.work_us:
            self._begin(held)
        if self._probes and row in self._probes:
            self._probes[row] -= held.probe
            self.limit[row] = self._limit_of(row)
            self._refresh(self._serves[row])
        elif self.state[row] == UP:
            gained = int(self.running[row] < self.limit[row])
            for needs in self._serves[row]:
                self._free[needs] += gained
                self._epochs[needs] += 1
        return held

    def probe_of(self, row: int) -> NodeId | None:
        """The node by which a worker is probed now."""
        if not self._probes.get(row):
            return None
        nodes = self.reservations.items()
        return next((node for node, held in nodes if held.probe and held.row == row), None)

    # -- questions ----------------------------------------------------------------------------

    def epoch(self, needs: Needs) -> int:
        """Moves when room for `needs` may have appeared."""
        return self._epochs.get(needs, 0)

    def has_room(self, needs: Needs) -> bool:
        """Whether any worker that serves `needs` has a free slot. O(1)."""
        return self._free.get(needs, 0) > 0

    def with_room(self, needs: Needs, excluded: tuple[WorkerId, ...] = ()) -> Rows:
        """Rows that can take one more node, in row order; the excluded only if there is no other."""
        rows = self._up.get(needs, _NO_ROWS)
        free = self.running[rows] < self.limit[rows]
        if not free.all():
            rows = rows[free]
        if excluded and rows.size:
            avoid = [self.rows[worker] for worker in excluded if worker in self.rows]
            others = rows[~np.isin(rows, avoid)]
            rows = others if others.size else rows
        return rows

    def serving(self, needs: Needs) -> Rows:
        """Rows of the workers that are up and serve `needs`, with room or without."""
        return self._up.get(needs, _NO_ROWS)

    def may_serve(self, needs: Needs) -> bool:
        """Whether a registered worker, up or not, could serve `needs` one day."""
        known = self._may.get(needs)
        if known is None:
            known = any(self._could(row, needs) for row in range(len(self.ids)))
            if known:  # a refusal is not remembered: anybody may ask for any name
                self._may[needs] = True
        return known

    def shortest(self, needs: Needs) -> int | None:
        """The longest sequence that every worker for `needs` takes; None where none ever came up.

        Every and not any: whoever waits for `needs` may be given to each of them.
        """
        return self._shortest.get(needs)

    def models(self) -> list[str]:
        """Names that the registered workers serve, each once, in join order."""
        alive = [names for row, names in enumerate(self._models) if self.state[row] != GONE]
        return list(dict.fromkeys(name for names in alive for name in names))

    def tasks(self, model: str) -> list[str]:
        """What the workers that came up do with this model."""
        needed = self._servers.items()
        return sorted({task for (name, task, _), rows in needed if name == model and rows})

    def describe(self) -> list[dict[str, Any]]:
        """One plain row a worker, for people and metrics."""
        return [
            {
                "worker": worker,
                "model": self._models[row][0],
                "models": list(self._models[row]),
                "state": STATES[self.state[row]],
                "breaker": BREAKERS[self.breaker[row]],
                "slots": int(self.slots[row]),
                "running": int(self.running[row]),
                "tokens": int(self.tokens[row]),
                "assigned": int(self.assigned[row]),
                "kv_usage": None if np.isnan(self.kv_usage[row]) else float(self.kv_usage[row]),
            }
            for row, worker in enumerate(self.ids)
        ]

    def check_integrity(self) -> None:
        """Reservations sum to the load, row by row, and free slots to the free counters."""
        self._check_rows()
        running = np.zeros_like(self.running)
        tokens = np.zeros_like(self.tokens)
        work = np.zeros_like(self.work_us)
        for held in self.reservations.values():
            running[held.row] += 1
            tokens[held.row] += held.tokens
            work[held.row] += held.work_us
        if (
            (running != self.running).any()
            or (tokens != self.tokens).any()
            or (work != self.work_us).any()
            or self.prefilling != sum(held.work_us > 0 for held in self.reservations.values())
        ):
            raise IntegrityError("fleet: reservations do not sum to the load")
        for row in range(len(self.ids)):
            if self.limit[row] != self._limit_of(row):
                raise IntegrityError(f"fleet: the breaker of row {row} leaves another limit")
        if set(self._probes) != set(np.flatnonzero(self.breaker == HALF_OPEN).tolist()):
            raise IntegrityError("fleet: others are probed than are half open")
        for row, probes in self._probes.items():
            if probes != sum(held.probe for held in self.reservations.values() if held.row == row):
                raise IntegrityError(f"fleet: the probes on row {row} are counted wrongly")
        for needs, free in self._free.items():
            rows = self._up.get(needs, _NO_ROWS)
            if self._sum_free(rows) != free:
                raise IntegrityError(f"fleet: free slots for {needs} are counted wrongly")

    # -- inside -------------------------------------------------------------------------------

    def _fall(self, row: int, state: int) -> None:
        self.state[row] = state
        self.kv_usage[row] = np.nan
        before = self._serves[row]
        if state == GONE:
            self._offer(row, ())
        self._refresh(before)

    def _offer(self, row: int, needs: tuple[Needs, ...]) -> None:
        for one in self._serves[row]:
            self._servers[one].discard(row)
        self._serves[row] = needs
        for one in needs:
            self._servers.setdefault(one, set()).add(row)

    def _begin(self, held: Reservation) -> None:
        self.work_us[held.row] -= held.work_us
        held.work_us = 0
        self.prefilling -= 1

    def _could(self, row: int, needs: Needs) -> bool:
        """A worker that never came up has not said which tasks it does: it may do this one."""
        model, _, pin = needs
        served = self._serves[row]
        fits = needs in served if served else pin in ("", self.ids[row])
        return model in self._models[row] and bool(self.state[row] != GONE) and fits

    def _sum_free(self, rows: Rows) -> int:
        """A worker that came back smaller may hold more than it takes: it hides nobody's room."""
        return int(np.maximum(self.limit[rows] - self.running[rows], 0).sum())

    def _break(self, row: int, state: int) -> None:
        if self._probes.pop(row, None) is not None:
            for held in self.reservations.values():
                if held.row == row:
                    held.probe = False  # its answer is one among others from now on
        if state == HALF_OPEN:
            self._probes[row] = 0
        self.breaker[row] = state
        self.limit[row] = self._limit_of(row)

    def _limit_of(self, row: int) -> int:
        if self.breaker[row] == CLOSED:
            return int(self.slots[row])
        if self.breaker[row] == OPEN:
            return 0
        others = int(self.running[row]) - self._probes[row]
        return min(int(self.slots[row]), others + 1)

    def _refresh(self, changed: Iterable[Needs]) -> None:
        """Membership changed: the lists of who serves these are made anew and their epochs move."""
        self.version += 1
        self._may.clear()
        for needs in changed:
            self._epochs[needs] = self._epochs.get(needs, self._forgotten) + 1
            servers = sorted(self._servers.get(needs, ()))
            if not servers:  # of a worker that is gone nothing stays behind but its row
                for known in (self._servers, self._shortest, self._up, self._free):
                    known.pop(needs, None)
                continue
            self._shortest[needs] = min(self._lengths[row] for row in servers)
            up = [row for row in servers if self.state[row] == UP]
            rows = self._up[needs] = np.array(up, dtype=np.intp)
            self._free[needs] = self._sum_free(rows)

    def _forget(self) -> None:
        """What nobody serves any more has no epoch, first of all what asked for the old worker by its
        id."""
        for needs in [known for known in self._epochs if known not in self._servers]:
            self._forgotten = max(self._forgotten, self._epochs.pop(needs))
