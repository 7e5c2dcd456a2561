"""Generation and embedding on the same workers."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Blocked
from sage_llm_ops.scheduler_ir.strategies.fair import Fair, check_weights
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.protocols import Outlook


class HybridOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`weights` by task (`generate`, `embed`); `embed_batch`: embeddings placed one after another
    before the order is looked at again."""

    weights: dict[str, float] = {}
    embed_batch: int = 8
    input_weight: float = 1.0
    output_weight: float = 2.0
    late_every: int = 16

    def __post_init__(self) -> None:
        if self.late_every < 2:
            raise ValueError(f"late_every={self.late_every} must be at least 2")
        if self.embed_batch < 1:
            raise ValueError(f"embed_batch={self.embed_batch} must be at least 1")
        for task in self.weights:
            if task not in ("generate", "embed"):
                raise ValueError(f"weights: {task!r} is no task; known: embed, generate")
        check_weights(self.weights, self.input_weight, self.output_weight)


class Hybrid(Fair):
    """Equal tokens for both tasks, embeddings in batches.

    `fair` with the task for a tenant: neither a flood of embeddings nor long answers hold the other
    up, and no fixed split of the fleet is left idle. Embeddings are short and cost an engine a step
    each batch, so they go out in runs of `embed_batch`; a run is what one placement of a generation
    waits at most, beyond `fair`'s bound.
    """

    name: ClassVar[str] = "hybrid"
    Options = HybridOptions

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        super().__init__(options, outlook)
        self._run = 0

    def group(self, job: Job) -> str:
        return job.request.task

    def _pick(self, now: float, blocked: Blocked) -> RequestId | None:
        if self._run:
            found = super()._pick(now, lambda needs: needs[1] != "embed" or blocked(needs))
            if found is not None:
                return found
        return super()._pick(now, blocked)

    def _gone(self, job: Job, now: float, *, placed: bool) -> None:
        super()._gone(job, now, placed=placed)
        if placed:
            batch = self.options.embed_batch
            embed = job.request.task == "embed"
            self._run = (self._run or batch) - 1 if embed else 0
