"""More urgent first."""

from __future__ import annotations

from typing import ClassVar

from sage_llm_ops.scheduler_ir.strategies.base import Strategy
from sage_llm_ops.scheduler_ir.strategies.lane import Key
from sage_llm_ops.types.events import Job


class Priority(Strategy):
    """The urgent wait least: by `RequestPriority`, within one priority by arrival.

    No bound on starvation: a steady stream of urgent requests holds the others back for ever.
    Whoever needs a bound gives requests a `timeout_ms`.
    """

    name: ClassVar[str] = "priority"

    def key(self, job: Job, now: float) -> Key:
        return (job.request.priority, job.seq)
