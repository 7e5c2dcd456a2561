"""A scheduling policy: less work first."""

from __future__ import annotations

from typing import ClassVar

from sage_llm_ops.scheduler_ir import Strategy
from sage_llm_ops.scheduler_ir.strategies.base import Key
from sage_llm_ops.types.events import Job


class ShortestFirst(Strategy):
    """By the tokens a request may come to. Pure: it sees the job and the time, nothing else."""

    name: ClassVar[str] = "shortest_first"
    version: ClassVar[int] = 1

    def key(self, job: Job, now: float) -> Key:
        return (job.request.n_prompt + job.request.max_tokens,)
