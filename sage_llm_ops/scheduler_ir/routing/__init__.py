"""Place. `ROUTINGS` holds the names that exist, plug-ins among them; any other is refused."""

from sage_llm_ops.scheduler_ir.routing.base import Choice, Routing
from sage_llm_ops.scheduler_ir.routing.bounded import (
    Affinity,
    BoundedHash,
    Locality,
    TopologyAware,
)
from sage_llm_ops.scheduler_ir.routing.load_balanced import (
    LeastConnections,
    LeastResponseTime,
    LoadBalanced,
)
from sage_llm_ops.scheduler_ir.routing.predicted_latency import PredictedLatency
from sage_llm_ops.scheduler_ir.routing.round_robin import RoundRobin, WeightedRoundRobin
from sage_llm_ops.scheduler_ir.routing.scattered import PowerOfTwo, Random
from sage_llm_ops.types.registry import Registry

_BUILT_IN: tuple[type[Routing], ...] = (
    LoadBalanced,
    RoundRobin,
    Random,
    Affinity,
    Locality,
    TopologyAware,
    LeastConnections,
    LeastResponseTime,
    WeightedRoundRobin,
    PowerOfTwo,
    BoundedHash,
    PredictedLatency,
)
ROUTINGS: Registry[Routing] = Registry(
    "routing strategy", "routings", Routing, {kind.name: kind for kind in _BUILT_IN}
)

__all__ = ["ROUTINGS", "Choice", "LoadBalanced", "PredictedLatency", "RoundRobin", "Routing"]
