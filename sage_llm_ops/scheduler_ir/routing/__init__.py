"""Place. `ROUTINGS` holds the names that exist, plug-ins among them; any other is refused."""

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing
from sage_llm_ops.scheduler_ir.routing.load_balanced import LoadBalanced
from sage_llm_ops.scheduler_ir.routing.round_robin import RoundRobin
from sage_llm_ops.types.registry import Registry

ROUTINGS: Registry[Routing] = Registry(
    "routing strategy",
    "routings",
    Routing,
    {"load_balanced": LoadBalanced, "round_robin": RoundRobin},
)

__all__ = ["ROUTINGS", "Choice", "LoadBalanced", "RoundRobin", "Routing"]
