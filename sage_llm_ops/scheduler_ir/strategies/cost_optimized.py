"""As cheap as it may be, in time."""

from __future__ import annotations

from typing import ClassVar

from sage_llm_ops.scheduler_ir.strategies.slo_aware import SLOAware
from sage_llm_ops.types.events import Job


class CostOptimized(SLOAware):
    """Least money: Route takes the cheapest place that meets the objective and the budget.

    Cheap workers are slow, so they must be asked early: the order is `slo_aware`'s, with the service
    time on the *cheapest* worker that a request could get. Starvation is bounded as there.
    A `cost_budget` holds under every strategy: no request is placed where it would cost more.
    """

    name: ClassVar[str] = "cost_optimized"
    thrifty: ClassVar[bool] = True

    def _service_s(self, job: Job) -> float:
        return self.outlook.service_s(job.request, job.delivered, cheapest=True)
