"""Many models on few workers, in groups."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Blocked, Strategy
from sage_llm_ops.scheduler_ir.strategies.lane import Entry
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.protocols import Outlook


class AegaeonOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`group_size`: placements of one model in a row (Aegaeon's prefill groups of 8)."""

    group_size: int = 8

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise ValueError(f"group_size={self.group_size} must be at least 1")


class Aegaeon(Strategy):
    """Fewest model switches: prefills of one model in groups (Aegaeon, SOSP'25).

    For workers that several models share (`models` of a simulated engine; an engine that cannot has
    no such capability, and its requests for other models are refused by name). Such a worker pays for
    every switch, so requests of the model served last go on until `group_size` were placed or none is
    left; then the model whose oldest request has waited longest begins a group.
    Nobody starves: a group begins with the oldest of all, so at most (models - 1) * (group_size - 1)
    later arrivals go before a request whose workers have room.
    Decode rounds, weighted, are the worker's (`engines/sim/shared.py`).
    """

    name: ClassVar[str] = "aegaeon"
    Options = AegaeonOptions

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        super().__init__(options, outlook)
        self._model: str | None = None
        self._left = 0

    def _enter(self, job: Job, number: int, now: float) -> None:
        self._lane.push(job.needs, ((job.seq,), number, job.request.id))

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        best: Entry | None = None
        if self._left:
            model = self._model
            best = self._lane.best(lambda needs: needs[0] != model or blocked(needs))
        if best is None:
            best = self._lane.best(blocked)
        return None if best is None else best[2]

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        if not placed:
            self._lane.compact(job.needs, len(self._pending))
            return
        model = job.request.model
        if model == self._model and self._left:
            self._left -= 1
        else:
            self._model, self._left = model, self.options.group_size - 1

    def _order(self) -> list[RequestId]:
        entries = self._lane.live()
        ahead = [e for e in entries if self._left and self._is_current(e)][: self._left]
        first = {entry[2] for entry in ahead}
        return [e[2] for e in ahead] + [e[2] for e in entries if e[2] not in first]

    def _is_current(self, entry: Entry) -> bool:
        found = self._pending.get(entry[2])
        return found is not None and found[0].request.model == self._model
