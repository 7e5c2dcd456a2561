"""Any program's fleet, simulated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sage_llm_ops.core.stand_in import stand_in
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.types.instances import ExecutionInstance

FAST = {"speed": 1000.0}
"""A simulated second in a millisecond: order and shape stay, nobody waits."""


@contextmanager
def sim_fleet(**options: Any) -> Iterator[None]:
    """Every instance registered inside runs on `sim`, in this process.

    Its host, port, placement and engine are not looked at, its model name is a label, its adapters
    are simulated too; one that is on `sim` already keeps its own options. `options` are those of
    the sim engine.
    """
    chosen = {**FAST, **options}
    SimOptions.parse(chosen)

    def simulated(instance: ExecutionInstance) -> ExecutionInstance:
        own = instance.options
        if instance.engine != "sim":
            own = {key: own[key] for key in ("lora_modules",) if key in own}
        return replace(
            instance,
            engine="sim",
            placement="inline",
            host=None,
            port=None,
            options={**chosen, **own},
        )

    token = stand_in.set(simulated)
    try:
        yield
    finally:
        stand_in.reset(token)
