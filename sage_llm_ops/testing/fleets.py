"""Simulated fleets in one line."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.types.instances import ExecutionInstance


def sim_instances(
    n: int,
    *,
    model: str = "sim-model",
    prefix: str = "sim",
    max_concurrency: int | None = None,
    **options: Any,
) -> list[ExecutionInstance]:
    """`n` equal inline sim instances, `sim-0` and on; unknown options are refused here already."""
    SimOptions.parse(options)
    return [
        ExecutionInstance(
            instance_id=f"{prefix}-{index}",
            model_name=model,
            engine="sim",
            placement="inline",
            max_concurrency=max_concurrency,
            options=dict(options),
        )
        for index in range(n)
    ]
