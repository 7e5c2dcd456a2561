"""A placement as the founding documents describe it to callers."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.types.parallelism import ParallelismConfig


@dataclass(frozen=True, slots=True)
class SchedulingDecision:
    """Which instance a request was, or would be, given to. It carries the request's id."""

    instance_id: str
    request_id: str
    priority: float
    estimated_latency_ms: float | None
    """None while nobody measured what the estimate would rest on."""
    parallelism_config: ParallelismConfig | None = None
