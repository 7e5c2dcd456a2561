"""The founding documents' names for one decision at a time: dry runs that reserve nothing.

A graph decides with strategies and routings; these classes ask the same code what it would do with
one request and a list of instances. A manager's own see the load of its running graph; those made
by hand take all instances for idle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from sage_llm_ops.fleet import Fleet
from sage_llm_ops.operators.base import read_options
from sage_llm_ops.operators.outlook import FleetOutlook
from sage_llm_ops.pipeline.entering import joined
from sage_llm_ops.scheduler_ir import ROUTINGS, STRATEGIES, Strategy
from sage_llm_ops.scheduler_ir.narrowing import affordable, cheapest_in_time
from sage_llm_ops.types.decisions import SchedulingDecision
from sage_llm_ops.types.errors import NoInstance, OverBudget, UnknownName
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance, ExecutionInstanceType
from sage_llm_ops.types.pd import PDSeparationConfig
from sage_llm_ops.types.requests import Request, RequestMetadata, SamplingParams

BYTES_PER_TOKEN = 4
SLOTS = 256
"""Of an instance that has not said how many it takes."""
PHASES = {
    "prefilling": ExecutionInstanceType.PREFILLING,
    "decoding": ExecutionInstanceType.DECODING,
}
_OTHER = {"prefilling": "decoding", "decoding": "prefilling"}


class Surroundings:
    """What a dry run may look at. This one knows nothing."""

    def tokens(self, request: RequestMetadata) -> int:
        """Length of the prompt; here an estimate from its bytes."""
        if request.prompt_token_ids is not None:
            return len(request.prompt_token_ids)
        text = request.prompt
        if request.messages is not None:
            text = "".join(str(message.get("content", "")) for message in request.messages)
        return max(1, len(text.encode()) // BYTES_PER_TOKEN)

    def live(self) -> Fleet | None:
        """The running graph's fleet, to read only."""
        return None


def fleet_of(instances: Sequence[ExecutionInstance], around: Surroundings) -> Fleet:
    """A fleet of these instances, one row each in their order, as loaded as they are now."""
    live, fleet = around.live(), Fleet()
    node = 0
    for row, instance in enumerate(instances):
        worker = WorkerId(instance.instance_id)
        event = joined(instance)
        fleet.join(worker, "", role=event.role, price=event.price, place=event.place)
        there = None if live is None else live.rows.get(worker)
        known = there is not None and live is not None and live.slots[there] > 0
        slots = int(live.slots[there]) if known and live is not None else SLOTS
        fleet.up(worker, ("",), instance.max_concurrency or slots, 0, ("generate",))
        if known and live is not None:
            fleet.traits.response_ms[row] = live.traits.response_ms[there]
            if live.traits.known[there]:
                fleet.traits.speed(row, live.traits.ms[:, there])
            for _ in range(int(live.running[there])):
                node += 1
                fleet.reserve(NodeId(node), row, 0)
            fleet.tokens[row], fleet.work_us[row] = live.tokens[there], live.work_us[there]
            fleet.assigned[row] = live.assigned[there]
    return fleet


class RequestRouter:
    """Chooses an instance for one request; state (turns) is kept from call to call."""

    def __init__(
        self,
        strategy: str = "load_balanced",
        *,
        around: Surroundings | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        kind = ROUTINGS.resolve(strategy)
        owner = f"routing strategy {strategy!r}"
        self.strategy = strategy
        self.around = around or Surroundings()
        self._routing = kind(read_options(kind.Options, options or {}, owner=owner))

    async def select_instance(
        self,
        request: RequestMetadata,
        available_instances: list[ExecutionInstance],
        phase: str | None = None,
    ) -> ExecutionInstance:
        """The instance this routing would choose; `NoInstance` where none serves the request."""
        return self.choose(request, available_instances, phase)

    route = select_instance

    def choose(
        self,
        request: RequestMetadata,
        available_instances: Sequence[ExecutionInstance],
        phase: str | None = None,
        *,
        thrifty: bool = False,
    ) -> ExecutionInstance:
        """`select_instance` without a loop; `thrifty` as the order asks (`cost_optimized`)."""
        serving = self._serving(request, available_instances, phase)
        fleet = fleet_of(serving, self.around)
        rows = fleet.serving(NEEDS)
        free = rows[fleet.running[rows] < fleet.slots[rows]]
        rows, job = free if free.size else rows, self.job(request)
        rows = affordable(fleet, rows, job)
        if not rows.size:
            raise OverBudget(
                f"cost_budget={request.cost_budget:g} is below what it would cost on any of "
                f"{[each.instance_id for each in serving]}; raise it, or leave it out",
                request_id=request.request_id,
            )
        if thrifty:
            rows = cheapest_in_time(fleet, rows, job, 0.0)
        return serving[self._routing.choose(Offer(0, 0.0, job), fleet, rows).row]

    def job(self, request: RequestMetadata) -> Job:
        """The request as a routing sees it."""
        sampling = SamplingParams(max_tokens=request.max_tokens)
        identity = RequestId(request.request_id or "dry-run")
        travels = Request(identity, "", b"", self.around.tokens(request), sampling)
        travels.tenant = request.user_id or ""
        travels.priority = int(request.priority)
        travels.slo_ms = request.slo_deadline_ms
        travels.cost_budget = request.cost_budget
        return Job(travels, 0)

    @staticmethod
    def _serving(
        request: RequestMetadata, instances: Sequence[ExecutionInstance], phase: str | None
    ) -> list[ExecutionInstance]:
        """Those that serve its model, are not known to be down, and are not for the other phase
        where there is one for this phase."""
        found = [
            each
            for each in instances
            if each.health_status != "unhealthy"
            and request.model_name in (None, "", each.model_name)
            and request.pin in (None, "", each.instance_id)
        ]
        if phase is not None:
            if phase not in PHASES:
                raise UnknownName("phase", phase, PHASES)
            mine = [each for each in found if each.instance_type is PHASES[phase]]
            other = PHASES[_OTHER[phase]]
            found = mine or [each for each in found if each.instance_type is not other] or found
        if not found:
            names = [each.instance_id for each in instances]
            raise NoInstance(
                f"none of the instances {names} serves model {request.model_name!r} and is healthy",
                request_id=request.request_id,
            )
        return found


NEEDS = ("", "generate", "")


class LoadBalancer:
    """The least loaded of some instances."""

    def __init__(self, *, around: Surroundings | None = None) -> None:
        self._router = RequestRouter("load_balanced", around=around)

    def get_least_loaded_instance(self, instances: list[ExecutionInstance]) -> ExecutionInstance:
        """By share of slots in use, as the routing `load_balanced`."""
        return self._router.choose(RequestMetadata(prompt="-"), instances)

    select_instance = get_least_loaded_instance


class SchedulingPolicy(ABC):
    """An order with a router: what they would decide about one request."""

    def __init__(
        self, strategy: Strategy | None = None, *, router: RequestRouter | None = None
    ) -> None:
        self.strategy = strategy or self._own()
        self.router = router or RequestRouter()

    @property
    def name(self) -> str:
        """Of the order."""
        return self.strategy.name

    @abstractmethod
    async def schedule(
        self, request: RequestMetadata, instances: list[ExecutionInstance]
    ) -> SchedulingDecision:
        """Where the request would go; reserves nothing. An empty list is `NoInstance`."""

    def get_next_request(self) -> Request | None:
        """Who would be next among those that wait; it stays where it is."""
        return next((job.request for job in self.strategy), None)

    @abstractmethod
    def _own(self) -> Strategy:
        """The order of a policy that was made by hand."""


class _Policy(SchedulingPolicy):
    """All of them decide alike about one request: an order is about several."""

    strategy_name: ClassVar[str]

    async def schedule(
        self, request: RequestMetadata, instances: list[ExecutionInstance]
    ) -> SchedulingDecision:
        chosen = self.router.choose(request, instances, thrifty=self.strategy.thrifty)
        fleet = fleet_of([chosen], self.router.around)
        latency = None
        if fleet.traits.known[0]:
            job = self.router.job(request)
            ahead = float(fleet.work_us[0]) / 1e3
            latency = ahead + 1e3 * FleetOutlook(fleet).service_s(job.request, 0)
        return SchedulingDecision(
            instance_id=chosen.instance_id,
            request_id=request.request_id or "",
            priority=float(request.priority),
            estimated_latency_ms=latency,
        )

    def _own(self) -> Strategy:
        return STRATEGIES[self.strategy_name]()


class FIFOPolicy(_Policy):
    """First come, first served."""

    strategy_name = "fifo"


class PriorityPolicy(_Policy):
    """More urgent first."""

    strategy_name = "priority"


class SLOAwarePolicy(_Policy):
    """Least laxity first."""

    strategy_name = "slo_aware"


class CostOptimizedPolicy(_Policy):
    """As cheap as it may be, in time."""

    strategy_name = "cost_optimized"


class AdaptivePolicy(_Policy):
    """The order that fits the moment."""

    strategy_name = "adaptive"


POLICIES: dict[str, type[_Policy]] = {
    kind.strategy_name: kind
    for kind in (FIFOPolicy, PriorityPolicy, SLOAwarePolicy, CostOptimizedPolicy, AdaptivePolicy)
}


def policy_of(strategy: Strategy, router: RequestRouter) -> SchedulingPolicy:
    """The policy around an order in force; orders without a promised name get a plain one."""
    return POLICIES.get(strategy.name, FIFOPolicy)(strategy, router=router)


class PDRoutingStrategy:
    """Which phase a request mostly is, and what an instance is for. In tokens, not characters."""

    def __init__(
        self, config: PDSeparationConfig | None = None, *, around: Surroundings | None = None
    ) -> None:
        self.config = config or PDSeparationConfig()
        self._around = around or Surroundings()

    def determine_request_phase(self, request: RequestMetadata) -> str:
        """`prefilling` for prompts above the threshold, else `decoding`."""
        long = self._around.tokens(request) > self.config.prefilling_threshold_input_tokens
        return "prefilling" if long else "decoding"

    def get_instance_specialization(self, instance: ExecutionInstance) -> float:
        """1.0 for an instance that prefills, -1.0 for one that decodes, 0.0 for one that does both."""
        kind = ExecutionInstanceType(instance.instance_type)
        return {PHASES["prefilling"]: 1.0, PHASES["decoding"]: -1.0}.get(kind, 0.0)
