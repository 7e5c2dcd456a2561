"""Order. `STRATEGIES` holds the names that exist; any other is refused."""

from sage_llm_ops.scheduler_ir.strategies.base import Strategy
from sage_llm_ops.scheduler_ir.strategies.fifo import FIFO
from sage_llm_ops.scheduler_ir.strategies.priority import Priority

STRATEGIES: dict[str, type[Strategy]] = {"fifo": FIFO, "priority": Priority}

__all__ = ["FIFO", "STRATEGIES", "Priority", "Strategy"]
