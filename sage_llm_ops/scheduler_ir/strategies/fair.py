"""Equal service for every tenant, by tokens."""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Blocked, Strategy
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import Needs, RequestId
from sage_llm_ops.types.protocols import Outlook

_FORGET_ABOVE = 1024


class FairOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`weights`: share of a tenant that is not worth 1. `input_weight`, `output_weight`: what a
    prompt token and a generated token count (VTC's 1 and 2)."""

    weights: dict[str, float] = {}
    input_weight: float = 1.0
    output_weight: float = 2.0

    def __post_init__(self) -> None:
        named = {f"weights: {tenant}": weight for tenant, weight in self.weights.items()}
        named |= {"input_weight": self.input_weight, "output_weight": self.output_weight}
        for name, weight in named.items():
            if not weight > 0.0:
                raise ValueError(f"{name}={weight!r} must be above 0")


class Fair(Strategy):
    """Virtual token counter (VTC, OSDI'24): the tenant that was served least is next.

    A placement counts its prompt, an end what was generated, both divided by the tenant's weight. A
    tenant that comes back after it had nothing pending is lifted to the lowest counter among those
    who have: time away is no credit. Two tenants that both always have requests pending are served
    within 2 * max(w_in * L_in, w_out * M) of each other (L_in: longest prompt, M: tokens that run at
    a time). Nobody starves: every placement of others raises their counters.
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
        self._queues: dict[Needs, dict[str, list[tuple[int, int, RequestId]]]] = {}
        self._heads: dict[Needs, list[tuple[float, str]]] = {}
        """As `_active`, by needs."""

    def group(self, job: Job) -> str:
        """Whom it counts for."""
        return job.request.tenant

    def finished(self, job: Job, now: float) -> None:
        if job.delivered:
            self._charge(self.group(job), self.options.output_weight * job.delivered)

    def _enter(self, job: Job, number: int, now: float) -> None:
        group = self.group(job)
        count = self._backlog.get(group, 0)
        if not count:
            self._lift(group)
        self._backlog[group] = count + 1
        queues = self._queues.setdefault(job.needs, {})
        queue = queues.get(group)
        if queue is None:
            queue = queues[group] = []
            heads = self._heads.setdefault(job.needs, [])
            heappush(heads, (self.counters[group], group))
        heappush(queue, (job.seq, number, job.request.id))

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        best: tuple[float, int, RequestId] | None = None
        for needs in list(self._heads):
            found = self._head(needs)
            if found is not None and (best is None or found < best) and not blocked(needs):
                best = found
        return None if best is None else best[2]

    def _head(self, needs: Needs) -> tuple[float, int, RequestId] | None:
        """Counter, arrival and id of the best one with these needs."""
        heads, queues = self._heads[needs], self._queues[needs]
        while heads:
            counter, group = heads[0]
            queue = queues[group]
            while queue and not self._is_live(queue[0][2], queue[0][1]):
                heappop(queue)
            if not queue:
                heappop(heads)
                del queues[group]
            elif counter < self.counters[group]:
                heapreplace(heads, (self.counters[group], group))
            else:
                return counter, queue[0][0], queue[0][2]
        del self._heads[needs], self._queues[needs]
        return None

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        group = self.group(job)
        if placed and not job.delivered:  # a further attempt is no further service
            self._charge(group, self.options.input_weight * job.request.n_prompt)
        left = self._backlog[group] - 1
        if left:
            self._backlog[group] = left
        else:
            del self._backlog[group]
            self._floor = max(self._floor, self.counters[group])
        if not placed:
            self._compact(job.needs, group)

    def _compact(self, needs: Needs, group: str) -> None:
        queue = self._queues.get(needs, {}).get(group)
        if queue is not None and len(queue) > 256 and len(queue) > 2 * len(self._pending):
            queue[:] = sorted(entry for entry in queue if self._is_live(entry[2], entry[1]))

    def _charge(self, group: str, tokens: float) -> None:
        weight = self.options.weights.get(group, 1.0)
        self.counters[group] = self.counters.get(group, self._floor) + tokens / weight

    def _lift(self, group: str) -> None:
        least = self._least()
        base = self._floor if least is None else least
        self.counters[group] = max(self.counters.get(group, base), base)
        heappush(self._active, (self.counters[group], group))
        if len(self.counters) > _FORGET_ABOVE + 2 * len(self._backlog):
            # Who has nothing pending and lies below would be lifted anyway.
            for name in [n for n, c in self.counters.items() if c <= base]:
                if name not in self._backlog and name != group:
                    del self.counters[name]

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
            (self.counters.get(group, 0.0), seq, identity)
            for queues in list(self._queues.values())
            for group, queue in list(queues.items())
            for seq, number, identity in list(queue)
            if self._is_live(identity, number)
        ]
        return [identity for _, _, identity in sorted(rows)]
