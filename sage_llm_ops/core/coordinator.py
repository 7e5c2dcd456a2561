"""`ExecutionCoordinator`: the instances, and one request on one of them, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_llm_ops.engines.base import Worker
from sage_llm_ops.types.decisions import SchedulingDecision
from sage_llm_ops.types.errors import InvalidRequest, UnknownName
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.requests import RequestMetadata
from sage_llm_ops.types.results import RequestResult

if TYPE_CHECKING:
    from sage_llm_ops.core.manager import ControlPlaneManager


class ExecutionCoordinator:
    """Shares one registry with its manager; without one it makes its own on first use."""

    def __init__(self, manager: ControlPlaneManager | None = None) -> None:
        self._given = manager

    @property
    def instances(self) -> Mapping[str, ExecutionInstance]:
        """Registered instances by id; read-only."""
        return MappingProxyType(self._manager.control.instances)

    @property
    def http_clients(self) -> Mapping[str, Any]:
        """What talks to each instance reached over HTTP, once the manager runs; read-only."""
        workers = self._manager.control.pipeline.hands.workers
        found = {
            name: workers[WorkerId(name)]
            for name in self.instances
            if name in workers and workers[WorkerId(name)].instance.wants_http
        }
        return MappingProxyType(found)

    def register_instance(self, instance: ExecutionInstance) -> None:
        """The same as the manager's."""
        self._manager.register_instance(instance)

    async def execute_request(
        self,
        request: RequestMetadata,
        instance: ExecutionInstance,
        decision: SchedulingDecision | None = None,
    ) -> dict[str, Any]:
        """Reserve on this instance, run, release. The decision, if given, must be about both."""
        if instance.instance_id not in self.instances:
            raise UnknownName("instance", instance.instance_id, self.instances)
        if decision is not None:
            _check(request, instance, decision)
        pinned = replace(request, pin=instance.instance_id)
        return as_dict(await self._manager.process_request(pinned))

    async def health_check(self, instance_id: str) -> bool:
        """Whether the instance takes requests now."""
        if instance_id not in self.instances:
            raise UnknownName("instance", instance_id, self.instances)
        healthy = self.instances[instance_id].health_status == "healthy"
        return healthy and self._manager.control.running

    def get_healthy_instances(self) -> list[ExecutionInstance]:
        """All but those known to be unhealthy."""
        return [i for i in self.instances.values() if i.health_status != "unhealthy"]

    def worker(self, instance_id: str) -> Worker:
        """The worker behind an instance, once the manager runs."""
        return self._manager.control.worker(instance_id)

    @property
    def _manager(self) -> ControlPlaneManager:
        if self._given is None:
            from sage_llm_ops.core.manager import ControlPlaneManager

            self._given = ControlPlaneManager()
        return self._given


def as_dict(result: RequestResult) -> dict[str, Any]:
    """A result as the documents show it."""
    timings = result.timings
    return {
        "request_id": result.request_id,
        "instance_id": result.instance_id,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "usage": {
            "prompt_tokens": result.usage.prompt_tokens,
            "completion_tokens": result.usage.completion_tokens,
            "total_tokens": result.usage.total_tokens,
            "cached_tokens": result.usage.cached_tokens,
        },
        "timings": {
            "queue_s": timings.queue_s,
            "ttft_s": timings.ttft_s,
            "latency_s": timings.latency_s,
        },
    }


def _check(
    request: RequestMetadata, instance: ExecutionInstance, decision: SchedulingDecision
) -> None:
    """A decision about another request or instance is not carried out."""
    if decision.request_id != request.request_id:
        raise InvalidRequest(
            f"the decision is about {decision.request_id!r}", request_id=request.request_id
        )
    if decision.instance_id != instance.instance_id:
        raise InvalidRequest(
            f"the decision names instance {decision.instance_id!r}, not {instance.instance_id!r}",
            request_id=request.request_id,
        )
