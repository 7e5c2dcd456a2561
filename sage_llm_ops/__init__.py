"""sage-llm-ops: the control plane of LLM serving, as a SAGE dataflow.

Names are loaded when they are first used: importing the package loads neither SAGE nor an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sage_llm_ops.core import ControlPlaneManager, ExecutionCoordinator
    from sage_llm_ops.service.control_plane_service import ControlPlaneVLLMService
    from sage_llm_ops.types.decisions import SchedulingDecision
    from sage_llm_ops.types.instances import (
        DecodingConfig,
        ExecutionInstance,
        ExecutionInstanceType,
        PrefillingConfig,
    )
    from sage_llm_ops.types.metrics import PerformanceMetrics
    from sage_llm_ops.types.parallelism import ParallelismConfig, ParallelismType
    from sage_llm_ops.types.pd import PDSeparationConfig
    from sage_llm_ops.types.requests import (
        RequestMetadata,
        RequestPriority,
        RequestStatus,
        SamplingParams,
    )

_HOMES = {
    "ControlPlaneManager": "core",
    "ControlPlaneVLLMService": "service.control_plane_service",
    "DecodingConfig": "types.instances",
    "ExecutionCoordinator": "core",
    "ExecutionInstance": "types.instances",
    "ExecutionInstanceType": "types.instances",
    "PDSeparationConfig": "types.pd",
    "ParallelismConfig": "types.parallelism",
    "ParallelismType": "types.parallelism",
    "PerformanceMetrics": "types.metrics",
    "PrefillingConfig": "types.instances",
    "RequestMetadata": "types.requests",
    "RequestPriority": "types.requests",
    "RequestStatus": "types.requests",
    "SamplingParams": "types.requests",
    "SchedulingDecision": "types.decisions",
}

__all__ = [
    "ControlPlaneManager",
    "ControlPlaneVLLMService",
    "DecodingConfig",
    "ExecutionCoordinator",
    "ExecutionInstance",
    "ExecutionInstanceType",
    "PDSeparationConfig",
    "ParallelismConfig",
    "ParallelismType",
    "PerformanceMetrics",
    "PrefillingConfig",
    "RequestMetadata",
    "RequestPriority",
    "RequestStatus",
    "SamplingParams",
    "SchedulingDecision",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
