"""The manager, its workers and what is remembered of requests."""

from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.coordinator import ExecutionCoordinator
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.core.describe import describe
from sage_llm_ops.core.discovery import Discovery, Reload
from sage_llm_ops.core.dry_run import (
    AdaptivePolicy,
    CostOptimizedPolicy,
    FIFOPolicy,
    LoadBalancer,
    PDRoutingStrategy,
    PriorityPolicy,
    RequestRouter,
    SchedulingPolicy,
    SLOAwarePolicy,
)
from sage_llm_ops.core.health import HealthPolicy
from sage_llm_ops.core.manager import ControlPlaneManager
from sage_llm_ops.core.supervisor import RestartPolicy

__all__ = [
    "AdaptivePolicy",
    "ControlPlane",
    "ControlPlaneManager",
    "CostOptimizedPolicy",
    "Discovery",
    "ExecutionCoordinator",
    "FIFOPolicy",
    "HealthPolicy",
    "LoadBalancer",
    "PDRoutingStrategy",
    "PriorityPolicy",
    "Reload",
    "RequestRouter",
    "RestartPolicy",
    "SLOAwarePolicy",
    "SchedulingPolicy",
    "describe",
    "serving",
]
