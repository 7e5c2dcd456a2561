"""What really runs where an instance is registered: the instance itself, or a stand-in for it.

The one seam for running a program written for a fleet without that fleet. The instance keeps its
place in the registry; its stand-in gets the worker and chooses the tokenizer. A context variable,
because the program that is run makes its own managers: nobody can pass them an argument. Looked at
in `register` alone, in the registering caller's context; `testing.sim_fleet` sets it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from sage_llm_ops.types.instances import ExecutionInstance

StandIn = Callable[[ExecutionInstance], ExecutionInstance]

stand_in: ContextVar[StandIn | None] = ContextVar("sage_llm_ops.stand_in", default=None)


def runs_as(instance: ExecutionInstance) -> ExecutionInstance:
    """The instance that gets the worker."""
    chosen = stand_in.get()
    return instance if chosen is None else chosen(instance)
