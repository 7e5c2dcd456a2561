"""Shipped fakes: use these in tests, not monkeypatching."""

from sage_llm_ops.testing.clocks import ManualClock
from sage_llm_ops.testing.faults import FaultPlan, FaultyUplink, FaultyWorker
from sage_llm_ops.testing.fleets import sim_instances

__all__ = ["FaultPlan", "FaultyUplink", "FaultyWorker", "ManualClock", "sim_instances"]
