"""First come, first served."""

from __future__ import annotations

from typing import ClassVar

from sage_llm_ops.scheduler_ir.strategies.base import Strategy
from sage_llm_ops.scheduler_ir.strategies.lane import Key
from sage_llm_ops.types.events import Job


class FIFO(Strategy):
    """Nobody is overtaken: by arrival, kept over retries. Nobody starves either: at most all earlier
    arrivals go first, among those for whose needs there is room."""

    name: ClassVar[str] = "fifo"

    def key(self, job: Job, now: float) -> Key:
        return (job.seq,)
