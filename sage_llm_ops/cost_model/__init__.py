"""How long prefill and decode take, per class of worker. Pure."""

from sage_llm_ops.cost_model.book import CostBook, WorkerClass
from sage_llm_ops.cost_model.link import Link
from sage_llm_ops.cost_model.step import Step, decode_ms, pairs_of, prefill_ms, step_ms

__all__ = [
    "CostBook",
    "Link",
    "Step",
    "WorkerClass",
    "decode_ms",
    "pairs_of",
    "prefill_ms",
    "step_ms",
]
