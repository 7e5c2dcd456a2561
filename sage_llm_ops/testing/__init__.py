"""Shipped fakes: clocks, faults, engines and fleets for tests of ours and of yours.

Nothing in here lies on the path of a benchmark or of production.
"""

from sage_llm_ops.testing.clocks import ManualClock
from sage_llm_ops.testing.faults import FaultPlan, FaultyUplink, FaultyWorker
from sage_llm_ops.testing.fleets import sim_instances
from sage_llm_ops.testing.held import HeldFleet, HeldWorker
from sage_llm_ops.testing.manual_worker import ManualWorker
from sage_llm_ops.testing.sim_fleet import sim_fleet

__all__ = [
    "FaultPlan",
    "FaultyUplink",
    "FaultyWorker",
    "HeldFleet",
    "HeldWorker",
    "ManualClock",
    "ManualWorker",
    "sim_fleet",
    "sim_instances",
]
