"""Order. `STRATEGIES` holds the names that exist, plug-ins among them; any other is refused."""

from sage_llm_ops.scheduler_ir.strategies.base import Strategy
from sage_llm_ops.scheduler_ir.strategies.fifo import FIFO
from sage_llm_ops.scheduler_ir.strategies.priority import Priority
from sage_llm_ops.types.registry import Registry

STRATEGIES: Registry[Strategy] = Registry(
    "scheduling policy", "strategies", Strategy, {"fifo": FIFO, "priority": Priority}
)

__all__ = ["FIFO", "STRATEGIES", "Priority", "Strategy"]
