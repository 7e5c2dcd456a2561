"""Order. `STRATEGIES` holds the names that exist, plug-ins among them; any other is refused."""

from sage_llm_ops.scheduler_ir.strategies.adaptive import Adaptive
from sage_llm_ops.scheduler_ir.strategies.aegaeon import Aegaeon
from sage_llm_ops.scheduler_ir.strategies.base import Strategy
from sage_llm_ops.scheduler_ir.strategies.cost_optimized import CostOptimized
from sage_llm_ops.scheduler_ir.strategies.fair import Fair
from sage_llm_ops.scheduler_ir.strategies.fifo import FIFO
from sage_llm_ops.scheduler_ir.strategies.hybrid import Hybrid
from sage_llm_ops.scheduler_ir.strategies.priority import Priority
from sage_llm_ops.scheduler_ir.strategies.slo_aware import SLOAware
from sage_llm_ops.scheduler_ir.strategies.wspt import WSPT
from sage_llm_ops.types.registry import Registry

_BUILT_IN: tuple[type[Strategy], ...] = (
    FIFO,
    Priority,
    SLOAware,
    CostOptimized,
    Adaptive,
    Fair,
    WSPT,
    Aegaeon,
    Hybrid,
)
STRATEGIES: Registry[Strategy] = Registry(
    "scheduling policy", "strategies", Strategy, {kind.name: kind for kind in _BUILT_IN}
)

__all__ = [
    "FIFO",
    "STRATEGIES",
    "WSPT",
    "Adaptive",
    "Aegaeon",
    "CostOptimized",
    "Fair",
    "Hybrid",
    "Priority",
    "SLOAware",
    "Strategy",
]
