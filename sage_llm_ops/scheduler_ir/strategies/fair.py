"""Equal service for every tenant, by tokens."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Blocked, Strategy
from sage_llm_ops.scheduler_ir.strategies.line import Line, Waiting
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import Needs, RequestId
from sage_llm_ops.types.protocols import Outlook

_FORGET_ABOVE = 1024
_REMEMBERED = 65_536
"""Tenants with nothing pending whose counters are kept, whatever happens."""
_SLACK = 64
"""Entries of a heap that may be stale, beside as many as are not."""
Pool = tuple[str, str]
"""Model and task: those who ask for the same compete for the same workers."""


class FairOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`weights`: share of a tenant that is not worth 1. `input_weight`, `output_weight`: what a
    prompt token and a generated token count (VTC's 1 and 2). `late_every`: one in so many of a
    tenant's placements goes to those of its requests that cannot meet their objective any more."""

    weights: dict[str, float] = {}
    input_weight: float = 1.0
    output_weight: float = 2.0
    late_every: int = 16

    def __post_init__(self) -> None:
        if self.late_every < 2:
            raise ValueError(f"late_every={self.late_every} must be at least 2")
        check_weights(self.weights, self.input_weight, self.output_weight)


def check_weights(weights: Mapping[str, float], input_weight: float, output_weight: float) -> None:
    """Beyond, one tenant's counter would leave the others' no digit to differ in."""
    named = {f"weights: {name}": weight for name, weight in weights.items()}
    named |= {"input_weight": input_weight, "output_weight": output_weight}
    for name, weight in named.items():
        if not 1e-6 <= weight <= 1e6:
            raise ValueError(f"{name}={weight!r} must be above 0: between 1e-6 and 1e6")


class Fair(Strategy):
    """Virtual token counter (VTC, OSDI'24): the tenant that was served least is next.

    A placement counts its prompt, an end what was generated, both divided by the tenant's weight. A
    tenant that comes back after it had nothing pending is lifted to the lowest counter among those
    who have, and to that of whoever got the last place with its model and task: time away is no
    credit, and neither is the wait of somebody else for workers that are away. Two tenants that both
    always have requests pending are served within 2 * max(w_in * L_in, w_out * M) of each other
    (L_in: longest prompt, M: tokens that run at a time). No tenant starves: every placement of others
    raises their counters.

    A tenant's own requests go in order of arrival. Those whose latest start has passed are set apart,
    as in `slo_aware`: a tenant that asks for more than its share would otherwise have all of its
    requests served just too late, and its share would be spent on nothing. They get what its others
    leave, but one of its placements in `late_every` for certain.
    """

    name: ClassVar[str] = "fair"
    Options: ClassVar[type[msgspec.Struct]] = FairOptions

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        super().__init__(options, outlook)
        self.counters: dict[str, float] = {}
        self._backlog: dict[str, int] = {}
        self._active: list[tuple[float, str]] = []
        """Lazy heap of the tenants with a backlog: counters only grow, so a stale entry is too
        small and is put right when it surfaces."""
        self._floor = 0.0
        """Counter of the tenant who was the last to leave, for when nobody is left."""
        self._reached: dict[Pool, float] = {}
        """Counter with which the last one of a pool got its place."""
        self._look_at = _FORGET_ABOVE
        """Counters from which on it is worth looking for some to forget."""
        self._lines: dict[Needs, dict[str, Line]] = {}
        self._heads: dict[Needs, list[tuple[float, str]]] = {}
        """As `_active`, by needs."""
        self._since_late: dict[str, int] = {}
        """Placements of a tenant since the last one of a request that was set apart."""
        self._picked_late = False
        """Whether the offered one was set apart, when it was picked."""

    def group(self, job: Job) -> str:
        """Whom it counts for."""
        return job.request.tenant

    def completed(self, job: Job, now: float) -> None:
        self._learn(job, now)

    def finished(self, job: Job, now: float) -> None:
        if job.delivered:
            self._charge(self.group(job), self.options.output_weight * job.delivered)

    def _enter(self, job: Job, number: int, now: float) -> None:
        group = self.group(job)
        count = self._backlog.get(group, 0)
        if not count:
            self._lift(group, job.needs[:2])
        self._backlog[group] = count + 1
        lines = self._lines.setdefault(job.needs, {})
        line = lines.get(group)
        if line is None:
            line = lines[group] = Line(self._pending)
            heads = self._heads.setdefault(job.needs, [])
            heappush(heads, (self.counters[group], group))
            if len(heads) > _SLACK + 2 * len(lines):
                heads[:] = [(self.counters[name], name) for name in lines]
                heapify(heads)
        line.push(Waiting(job.seq, number, job.request.id, self._latest_start(job)))

    def _latest_start(self, job: Job) -> float:
        request = job.request
        if request.slo_ms is None:
            return inf
        service = self.outlook.service_s(request, job.delivered)
        return request.arrived + request.slo_ms / 1e3 - service

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        best: tuple[float, int, RequestId, bool] | None = None
        for needs in list(self._heads):
            found = self._head(needs, now)
            if found is not None and (best is None or found < best) and not blocked(needs):
                best = found
        if best is None:
            return None
        self._picked_late = best[3]
        return best[2]

    def _head(self, needs: Needs, now: float) -> tuple[float, int, RequestId, bool] | None:
        """Counter, arrival and id of the best one with these needs; whether it was set apart."""
        heads, lines = self._heads[needs], self._lines[needs]
        while heads:
            counter, group = heads[0]
            line = lines.get(group)
            if line is None:
                heappop(heads)
            elif counter < self.counters[group]:
                heapreplace(heads, (self.counters[group], group))
            else:
                due = self._since_late.get(group, 0) >= self.options.late_every - 1
                found = line.head(now, late_first=due)
                assert found is not None, f"the line of {group!r} is empty"
                entry, late = found
                return counter, entry.seq, entry.identity, late
        del self._heads[needs], self._lines[needs]
        return None

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        group, pool = self.group(job), job.needs[:2]
        if placed:
            self._reached[pool] = max(self._reached.get(pool, 0.0), self.counters[group])
            late = self._picked_late
            self._since_late[group] = 0 if late else self._since_late.get(group, 0) + 1
        if placed and not job.delivered:  # a further attempt is no further service
            self._charge(group, self.options.input_weight * job.request.n_prompt)
        left = self._backlog[group] - 1
        if left:
            self._backlog[group] = left
        else:
            del self._backlog[group]
            self._since_late.pop(group, None)
            self._floor = max(self._floor, self.counters[group])
        line = self._lines[job.needs][group]
        line.size -= 1
        if not line.size:
            del self._lines[job.needs][group]
        elif not placed:
            line.compact()

    def _charge(self, group: str, tokens: float) -> None:
        weight = self.options.weights.get(group, 1.0)
        self.counters[group] = self.counters.get(group, self._floor) + tokens / weight

    def _lift(self, group: str, pool: Pool) -> None:
        least = self._least()
        base = self._floor if least is None else least
        lifted = max(base, self._reached.get(pool, 0.0))
        self.counters[group] = max(self.counters.get(group, lifted), lifted)
        if len(self._active) > _SLACK + 2 * len(self._backlog):
            self._active = [(self.counters[name], name) for name in self._backlog]
            heapify(self._active)
        heappush(self._active, (self.counters[group], group))
        if len(self.counters) > self._look_at:
            self._forget(base, group)

    def _forget(self, base: float, present: str) -> None:
        """Who has nothing pending and lies below would be lifted anyway; where somebody who waits in
        vain keeps that low, those who were served least go."""
        idle = [n for n in self.counters if n not in self._backlog and n != present]
        idle.sort(key=lambda name: self.counters[name])
        for place, name in enumerate(idle):
            if self.counters[name] > base and len(idle) - place <= _REMEMBERED:
                break
            del self.counters[name]
        self._look_at = max(_FORGET_ABOVE, 2 * len(self.counters))

    def check_integrity(self) -> None:
        """And every tenant has as many pending as it is counted for."""
        super().check_integrity()
        lines = [line.size for found in self._lines.values() for line in found.values()]
        if not sum(self._backlog.values()) == sum(lines) == len(self._pending) or 0 in lines:
            raise IntegrityError(f"strategy {self.name}: backlogs, lines and pending jobs differ")

    def _least(self) -> float | None:
        """Lowest counter among tenants with a backlog."""
        active = self._active
        while active:
            counter, group = active[0]
            if group not in self._backlog:
                heappop(active)
            elif counter < self.counters[group]:
                heapreplace(active, (self.counters[group], group))
            else:
                return counter
        return None

    def _order(self) -> list[RequestId]:
        rows = [
            (self.counters.get(group, 0.0), late, entry)
            for lines in list(self._lines.values())
            for group, line in list(lines.items())
            for late, entry in line.live()
        ]
        return [entry.identity for _, _, entry in sorted(rows)]
