"""`ControlPlaneManager`: the promised, asynchronous face of the control plane."""

from __future__ import annotations

import asyncio
import atexit
import copy
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage_llm_ops.config import ServiceConfig, load_services
from sage_llm_ops.config.services import SETTINGS
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.coordinator import ExecutionCoordinator
from sage_llm_ops.core.defaults import (
    NAMES,
    POLICY,
    ROUTING,
    SERVICE_ROUTING,
    serving,
    split_settings,
)
from sage_llm_ops.core.discovery import Reload
from sage_llm_ops.core.dry_run import (
    PDRoutingStrategy,
    RequestRouter,
    SchedulingPolicy,
    Surroundings,
    policy_of,
)
from sage_llm_ops.core.measured import measured
from sage_llm_ops.core.views import PendingQueue, RunningRequests
from sage_llm_ops.fleet import Fleet
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.scheduler_ir import STRATEGIES
from sage_llm_ops.types.errors import (
    ConfigError,
    InvalidRequest,
    RequestError,
    SageLlmOpsError,
)
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.metrics import PerformanceMetrics
from sage_llm_ops.types.pd import PDSeparationConfig
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.requests import RequestMetadata, RequestStatus
from sage_llm_ops.types.results import RequestResult, RequestState

LONG_PROMPT = 2000
"""Characters from which a prompt is tokenised off the event loop: 2 kB take about half a ms."""
MAX_IN_FLIGHT = 10_000


class ControlPlaneManager:
    """Takes requests, gives results. Needs no running event loop until a coroutine is awaited, and
    may be used from a later one. The first request starts it if nobody did."""

    def __init__(
        self,
        scheduling_policy: str = POLICY,
        routing_strategy: str = ROUTING,
        enable_pd_separation: bool = True,
        enable_monitoring: bool = True,
        enable_auto_scaling: bool = False,
        pd_config: PDSeparationConfig | None = None,
        *,
        pd_policy: str | None = None,
        pipeline: PipelineSpec | None = None,
        scheduling_options: dict[str, Any] | None = None,
        routing_options: dict[str, Any] | None = None,
        pd_options: dict[str, Any] | None = None,
        admission: dict[str, Any] | None = None,
        default_engine: str | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        ledger: str | Path | None = None,
        record: str | Path | None = None,
        log_dir: str | Path | None = None,
        **options: Any,
    ) -> None:
        _check_switches(enable_pd_separation, enable_auto_scaling, pd_config)
        if pipeline is not None:
            _check_alone(
                scheduling_policy=scheduling_policy != POLICY,
                routing_strategy=routing_strategy != ROUTING,
                enable_pd_separation=not enable_pd_separation,
                enable_monitoring=not enable_monitoring,
                pd_config=pd_config,
                scheduling_options=scheduling_options,
                routing_options=routing_options,
                pd_options=pd_options,
                pd_policy=pd_policy,
                admission=admission,
                max_in_flight=max_in_flight != MAX_IN_FLIGHT,
                ledger=ledger,
            )
        split = pd_config or PDSeparationConfig(enabled=enable_pd_separation)
        spec = pipeline or serving(
            scheduling_policy=scheduling_policy,
            routing_strategy=routing_strategy,
            scheduling_options=scheduling_options,
            routing_options=routing_options,
            admission=admission,
            **split_settings(split, pd_options, pd_policy),
            monitoring=enable_monitoring,
            max_in_flight=max_in_flight,
            ledger=None if ledger is None else str(ledger),
        )
        self.control = ControlPlane(
            spec, default_engine=default_engine, record=record, log_dir=log_dir, **options
        )
        self.enable_pd_separation = enable_pd_separation
        around = Around(self.control)
        self.pd_router = PDRoutingStrategy(split, around=around) if split.enabled else None
        route = self.control.pipeline.operators.get("route")
        said = {} if route is None else route.options.options
        self.router = RequestRouter(self.routing_strategy or ROUTING, around=around, options=said)
        self.executor = ExecutionCoordinator(self)
        _stop_at_exit(self.control)

    @classmethod
    def from_config(
        cls,
        file: str | Path,
        service: str | None = None,
        *,
        watch: bool = False,
        **options: Any,
    ) -> ControlPlaneManager:
        """A manager with the instances of a `services.toml`; `service` where the file has several.
        With `watch` it follows the file while it runs; `reload` reads it again at any time."""
        found = load_services(file, known=NAMES).service(service)
        return cls.from_service(found, watch=watch, **options)

    @classmethod
    def from_service(
        cls, found: ServiceConfig, *, watch: bool = False, **options: Any
    ) -> ControlPlaneManager:
        """A manager as one service's table describes it; `options` win. `watch` as above. Where the
        table names no routing, it is the one that reuses prefixes, not a bare manager's."""
        said = {name: getattr(found, name) for name in SETTINGS}
        given = {name: value for name, value in said.items() if value is not None}
        if options.get("pipeline") is None:  # which says its own routing
            given.setdefault("routing_strategy", SERVICE_ROUTING)
        try:
            manager = cls(**{**given, **options})
        except ConfigError as error:
            if found.file is None or error.file is not None:
                raise
            raise found.located(error) from None
        for instance in found.instances:
            manager.register_instance(copy.deepcopy(instance))
        if found.file is not None or watch:
            manager.control.follow(found, watch=watch)
        return manager

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Return once every registered instance is ready; idempotent."""
        if not self.control.ready:
            await asyncio.to_thread(self.control.start)

    async def stop(self, timeout_s: float = 30.0) -> None:
        """Let what was accepted end, fail the rest by name, stop the workers; idempotent."""
        await asyncio.to_thread(self.control.stop, timeout_s)

    async def __aenter__(self) -> ControlPlaneManager:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    # -- instances ----------------------------------------------------------------------------

    def register_instance(self, instance: ExecutionInstance) -> None:
        """Before or after `start`; an id in use is refused."""
        self.control.register(instance)

    async def unregister_instance(
        self, instance_id: str, drain: bool = True, timeout_s: float = 60.0
    ) -> None:
        """Take it out; with `drain` after its running requests ended."""
        await asyncio.to_thread(
            self.control.unregister, instance_id, drain=drain, timeout_s=timeout_s
        )

    async def replace_instance(self, instance: ExecutionInstance, timeout_s: float = 300.0) -> None:
        """Another definition, or a fresh worker, under the id of a registered instance."""
        await asyncio.to_thread(self.control.replace, instance, timeout_s=timeout_s)

    async def roll_instances(self, timeout_s: float = 300.0) -> list[str]:
        """Replace every worker by a fresh one, never two at once; the others serve."""
        return await asyncio.to_thread(self.control.roll, timeout_s)

    async def reload(self) -> Reload:
        """Read the services file again and do what it says; what that was."""
        return await asyncio.to_thread(self.control.reload)

    # -- requests -----------------------------------------------------------------------------

    async def submit_request(self, request: RequestMetadata) -> str:
        """Accept a request; its id. Whatever becomes of it, `wait_for_result` tells."""
        return (await self.submit(request)).request_id

    async def submit(self, request: RequestMetadata) -> RequestHandle:
        """Accept a request; its handle, to await or to stream from."""
        await self.start()
        if request.messages is not None or len(str(request.prompt)) > LONG_PROMPT:
            return await asyncio.to_thread(self.control.submit, request)
        return self.control.submit(request)

    async def process_request(
        self,
        prompt: str | RequestMetadata,
        sampling_params: Any = None,
        *,
        model_name: str | None = None,
        **fields: Any,
    ) -> RequestResult:
        """Submit and wait. `fields` are those of `RequestMetadata`; next to a whole one they would
        contradict it."""
        if isinstance(prompt, RequestMetadata):
            request = prompt
            if sampling_params is not None or model_name is not None or fields:
                raise InvalidRequest(
                    "a RequestMetadata comes alone: put its other fields into it",
                    request_id=request.request_id,
                )
        else:
            request = RequestMetadata(
                prompt=prompt, sampling_params=sampling_params, model_name=model_name, **fields
            )
        return await (await self.submit(request))

    async def wait_for_result(
        self, request_id: str, timeout_s: float | None = None
    ) -> RequestResult:
        """Its result, or its error raised. A time-out leaves it running."""
        handle = self.control.handle(request_id)
        return await asyncio.wait_for(_result(handle), timeout_s)

    async def get_request_status(self, request_id: str) -> RequestState:
        """Where it stands; `UnknownRequest` once it is forgotten."""
        return self._state(self.control.handle(request_id))

    async def cancel_request(self, request_id: str) -> bool:
        """Ask to end it; False if it has ended. `wait_for_result` raises once it is cancelled."""
        return self.control.cancel(request_id)

    # -- views --------------------------------------------------------------------------------

    @property
    def scheduling_policy(self) -> SchedulingPolicy:
        """The order in force, and what it would decide."""
        return policy_of(self._schedule().strategy, self.router)

    @property
    def routing_strategy(self) -> str:
        """The name of the routing in force."""
        route = self.control.pipeline.operators.get("route")
        return str(route.options.strategy) if route is not None else ""

    @property
    def pending_queue(self) -> PendingQueue:
        """Requests that wait, in their order; read-only."""
        return PendingQueue(self._schedule().strategy)

    @property
    def running_requests(self) -> Mapping[str, RequestState]:
        """Requests that are on workers now, by id; read-only."""
        running = list(self.control.pipeline.plane.running.values())
        return RunningRequests([job.request.id for job in running], self.control.find, self._state)

    def get_metrics(self) -> PerformanceMetrics:
        """What was measured so far."""
        return measured(self.control)

    # -- inside -------------------------------------------------------------------------------

    def _schedule(self) -> Schedule:
        for operator in self.control.pipeline.operators.values():
            if isinstance(operator, Schedule):
                return operator
        raise ConfigError(f"pipeline {self.control.spec.name!r} has no schedule operator")

    def _state(self, handle: RequestHandle) -> RequestState:
        status, error = handle.status, None
        if handle.done():
            try:
                handle.outcome()
            except RequestError as failed:
                error = str(failed)
        elif handle.request.id in self._schedule().strategy:
            status = RequestStatus.QUEUED
        return RequestState(
            handle.request_id,
            status,
            handle.text() if handle.tokens or status is RequestStatus.COMPLETED else None,
            error,
            handle.timings,
            handle.worker,
        )


async def _result(handle: RequestHandle) -> RequestResult:
    return await handle


class Around(Surroundings):
    """A manager's own: its tokenizers and the load of its graph."""

    def __init__(self, control: ControlPlane) -> None:
        self._control = control

    def tokens(self, request: RequestMetadata) -> int:
        """Counted where the model is clear and its tokenizer can be had, else estimated."""
        if request.prompt_token_ids is not None or not isinstance(request.prompt, str):
            return super().tokens(request)
        try:
            tokenizer = self._control.tokenizer(self._control.model_for(request.model_name))
        except SageLlmOpsError:
            return super().tokens(request)
        if request.messages is not None:
            return len(tokenizer.chat(request.messages))
        return len(tokenizer.encode(request.prompt))

    def live(self) -> Fleet | None:
        return self._control.pipeline.plane.fleet


def _check_switches(pd: bool, scaling: bool, pd_config: PDSeparationConfig | None) -> None:
    """Switches that contradict each other, or would change nothing, are refused."""
    if pd_config is not None and pd_config.enabled != pd:
        raise ConfigError(
            f"pd_config.enabled={pd_config.enabled} and enable_pd_separation={pd} contradict each "
            "other; give both the same value"
        )
    if scaling:
        raise ConfigError("enable_auto_scaling=True: scaling is not built yet; leave it False")


def _check_alone(**given: object) -> None:
    """A pipeline says all of this itself; beside it they would be accepted and ignored."""
    said = [name for name, value in given.items() if value]
    if said:
        raise ConfigError(
            f"pipeline and {', '.join(said)}: a pipeline's own operators say that; write it there, "
            "or leave the pipeline out"
        )


def _stop_at_exit(control: ControlPlane) -> None:
    """No child process and no thread may outlive the interpreter because somebody forgot `stop`."""
    reference = weakref.ref(control)

    def stop() -> None:
        alive = reference()
        if alive is not None:
            alive.stop(0.0)

    atexit.register(stop)
    # Not at exit: finalizers run there first, and would take our `stop` away.
    weakref.finalize(control, atexit.unregister, stop).atexit = False


__all__ = ["STRATEGIES", "ControlPlaneManager"]
