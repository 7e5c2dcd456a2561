"""The control plane: a pipeline, the workers under it and what callers need around it.

Plain methods, callable from any thread; `ControlPlaneManager` is its asynchronous face.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from sage_llm_ops.config import ServiceConfig
from sage_llm_ops.core.discovery import Discovery, Reload
from sage_llm_ops.core.finished import Finished
from sage_llm_ops.core.health import Health, HealthPolicy
from sage_llm_ops.core.honoured import Honoured
from sage_llm_ops.core.members import STOP_WORKER_S, Members
from sage_llm_ops.core.requests import as_request
from sage_llm_ops.core.supervisor import RestartPolicy, Supervisor, Watched
from sage_llm_ops.core.ticker import Ticker
from sage_llm_ops.core.workshop import MakeWorker, Workshop
from sage_llm_ops.engines.base import Tokenizer, Worker
from sage_llm_ops.operators import OPERATORS, Operator
from sage_llm_ops.operators.pd_split import PDSplit
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.types.errors import (
    ConfigError,
    DuplicateRequest,
    EngineStartError,
    InvalidRequest,
    NoInstance,
    NotRunning,
    UnknownName,
    UnknownRequest,
)
from sage_llm_ops.types.ids import RequestId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance, ExecutionInstanceType
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.requests import Request, RequestMetadata

log = logging.getLogger("sage_llm_ops.core")


class ControlPlane:
    """Instances may be registered before and after `start`; requests are taken in between."""

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        default_engine: str | None = None,
        record: str | Path | None = None,
        log_dir: str | Path | None = None,
        restart: RestartPolicy | None = None,
        health: HealthPolicy | None = None,
        keep_finished: int = 1000,
        keep_finished_s: float = 600.0,
        registry: Mapping[str, type[Operator]] = OPERATORS,
        make: MakeWorker | None = None,
    ) -> None:
        self.spec = spec
        self.finished = Finished(keep_finished, keep_finished_s)
        self.pipeline = LivePipeline(
            spec, registry=registry, record=record, remember=self.finished.add
        )
        self.started_at: float | None = None
        self.stopped_at: float | None = None
        self.ready = False
        """Whether `start` has returned and `stop` was not called."""
        self.discovery: Discovery | None = None
        self._watching = False
        self._honoured = Honoured(self.pipeline.hands)
        self._workshop = Workshop(
            self.pipeline.hands, default_engine=default_engine, log_dir=log_dir, make=make
        )
        self._members = Members(
            self.pipeline, self._workshop, self._honoured, restart or RestartPolicy()
        )
        policy = health or HealthPolicy()
        check = Health(policy, lambda: list(self.pipeline.hands.workers.values())).check
        self._asking = Ticker("sage-llm-ops-health", policy.interval_s, check)
        self._starting = threading.Lock()
        self._start_error = ""
        self._lock = threading.RLock()
        self._stopped = False
        self._looked_at_pool = False
        for instance in spec.instances:
            self.register(instance)

    # -- life ---------------------------------------------------------------------------------

    def start(self, timeout_s: float = 300.0) -> None:
        """Start all workers at the same time and return once all are up; idempotent.

        A worker that does not come up makes it `EngineStartError`, and everything is stopped. Who
        calls it while another does waits for the same end.
        """
        with self._starting:
            if self._start_error:
                raise EngineStartError(self._start_error)
            if not self._launch():
                return
            down = self.supervisor.wait_ready(timeout_s)
            if down:
                self._start_error = _not_up(down, timeout_s)
                self.stop(0.0)
                raise EngineStartError(self._start_error)
            self.ready = not self._stopped

    def _warn_unsplit(self) -> None:
        """With the first request, when the fleet is there: a split that is asked for and cannot happen.
        Each decision says why as well."""
        asked = any(
            isinstance(each, PDSplit) and each.splitter.name != "never"
            for each in self.pipeline.operators.values()
        )
        roles = {ExecutionInstanceType(i.instance_type) for i in self.instances.values()}
        wanted = {ExecutionInstanceType.PREFILLING, ExecutionInstanceType.DECODING}
        if not asked:
            return
        if not wanted <= roles:
            # A split is a manager's default: who registered neither part of a pool did not ask for it.
            log.log(
                logging.WARNING if wanted & roles else logging.INFO,
                "prefill and decode stay together (no_split_pool): register instances of type "
                "prefilling and decoding, or leave enable_pd_separation off",
            )
            return
        unable = sorted(
            hello.engine
            for worker, hello in self.pipeline.hands.hellos.items()
            if worker in self.instances
            and ExecutionInstanceType(self.instances[worker].instance_type) in wanted
            and not {"prefill", "decode"} <= set(hello.capabilities.node_kinds)
        )
        if unable:
            log.warning(
                "prefill and decode stay together: engine %s cannot hand KV over", unable[0]
            )

    def _launch(self) -> bool:
        """Begin; False where it was begun already."""
        with self._lock:
            if self._stopped:
                raise NotRunning("a stopped control plane cannot be started again; make a new one")
            if self.started_at is not None:
                return False
            self._members.open()
            self.started_at = time.monotonic()
            self._asking.start()
            if self.discovery is not None and self._watching:
                self.discovery.start()
            return True

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Drain, fail what is left by name, stop the workers; idempotent. True if all had ended."""
        with self._lock:
            if self._stopped:
                return True
            self._stopped, self.ready = True, False
            if self.started_at is None:
                self.pipeline.discard()
                return True
        self._members.close()
        for thread in (self._asking, self.discovery):
            if thread is not None:
                thread.stop()
        clean = self.pipeline.stop(timeout_s)
        self.stopped_at = time.monotonic()
        self.supervisor.stop(min(STOP_WORKER_S, max(1.0, timeout_s)))
        return clean

    @property
    def running(self) -> bool:
        """Whether requests are taken."""
        return self.pipeline.running

    # -- instances ----------------------------------------------------------------------------

    @property
    def instances(self) -> dict[str, ExecutionInstance]:
        """Registered instances by id."""
        return self._members.instances

    @property
    def given_up(self) -> dict[str, str]:
        """Instances that were taken out because they would not stay up, and why."""
        return self._members.given_up

    @property
    def supervisor(self) -> Supervisor:
        """Who starts workers, and starts them again."""
        return self._members.supervisor

    def register(self, instance: ExecutionInstance) -> None:
        """Make an instance known. Opens nothing before `start`; after it the worker starts now."""
        self._members.register(instance)

    def unregister(self, instance_id: str, *, drain: bool = True, timeout_s: float = 60.0) -> None:
        """Take an instance out. With `drain` its running requests end first; what then is left, or
        without it everything, goes to other instances."""
        self._members.unregister(instance_id, timeout_s if drain else None)

    def replace(self, instance: ExecutionInstance, *, timeout_s: float = 300.0) -> None:
        """Give the id of an instance to another definition, or to a fresh worker of the same one.

        The worker behind it ends what it runs (what it has not ended after `timeout_s` goes to
        others), stops, and the new one is up when this returns. Requests that only this instance
        serves wait meanwhile. What cannot be built is refused before anything is touched.
        `EngineStartError`: it did not come up within `timeout_s`; it stays registered, and the
        restart policy goes on with it.
        """
        self._members.replace(instance, timeout_s)

    def roll(self, timeout_s: float = 300.0) -> list[str]:
        """`replace` every instance by itself, one after the other; their ids, in that order.

        Stops at the first that does not come up: `EngineStartError` says which, and which were
        left as they were.
        """
        return self._members.roll(timeout_s)

    def register_leased(self, instance: ExecutionInstance, lease_s: float) -> None:
        """`register`, for as long as `heartbeat` is called at least every `lease_s`. Once that has
        not been heard in time it is unregistered, and what it runs goes to others."""
        self._members.register_leased(instance, lease_s)

    def heartbeat(self, instance_id: str) -> float:
        """Renew a lease; its length in seconds. `UnknownName` where it has ended: register again."""
        return self._members.heartbeat(instance_id)

    def follow(self, service: ServiceConfig, *, watch: bool = True, poll_s: float = 2.0) -> None:
        """Keep to the file that `service`, whose instances are registered already, was read from:
        `reload` reads it again, and `watch` does so whenever it changes."""
        with self._lock:
            self.discovery = Discovery(self, service, poll_s=poll_s)
            self._watching = watch
            if watch and self.started_at is not None and not self._stopped:
                self.discovery.start()

    def reload(self) -> Reload:
        """Read the file that the plane was built from again, and do what it says."""
        if self.discovery is None:
            raise ConfigError("this control plane was not built from a file that could be reloaded")
        return self.discovery.reload()

    def worker(self, instance_id: str) -> Worker:
        """The worker behind an instance, for whoever injects faults or looks at it."""
        found = self.pipeline.hands.workers.get(WorkerId(instance_id))
        if found is None:
            raise UnknownName("instance", instance_id, self.pipeline.hands.workers)
        return found

    # -- requests -----------------------------------------------------------------------------

    def submit(self, metadata: RequestMetadata) -> RequestHandle:
        """Validate, tokenise and accept, on the calling thread."""
        model = self.model_for(metadata.model_name)
        tokenizer = self.tokenizer(model)
        return self.submit_request(as_request(metadata, model, tokenizer), tokenizer)

    def submit_request(self, request: Request, tokenizer: Tokenizer | None = None) -> RequestHandle:
        """Accept a request that is ready to travel."""
        if request.pin and request.pin not in self.instances:
            raise UnknownName("instance", request.pin, self.instances)
        if self.finished.get(request.id) is not None:
            raise DuplicateRequest(
                "the id belongs to a request that ended a moment ago", request_id=request.id
            )
        self._honoured.check(request)
        if not self._looked_at_pool:
            self._looked_at_pool = True
            self._warn_unsplit()
        return self.pipeline.submit(request, tokenizer)

    def handle(self, request_id: str) -> RequestHandle:
        """Of a running or remembered request; else `UnknownRequest`."""
        found = self.find(request_id)
        if found is None:
            raise UnknownRequest(
                "no such request runs or is remembered here", request_id=request_id
            )
        return found

    def find(self, request_id: str) -> RequestHandle | None:
        """`handle`, or None."""
        running = self.pipeline.hands.handles.get(RequestId(request_id))
        return running or self.finished.get(request_id)

    def cancel(self, request_id: str) -> bool:
        """Ask to end it; False if it has ended already."""
        handle = self.handle(request_id)
        if handle.done():
            return False
        self.pipeline.cancel(RequestId(request_id))
        return True

    def model_for(self, name: str | None) -> str:
        """The named model, alias or adapter if it is served here; without a name the only model."""
        served = list(dict.fromkeys(i.model_name for i in self.instances.values()))
        if name is not None:
            others = [other for i in self.instances.values() for other in i.other_names]
            if name not in served and name not in others:
                known = list(dict.fromkeys((*served, *others)))
                raise NoInstance(f"no instance serves model {name!r}; models here: {known}")
            return name
        if not served:
            raise NoInstance("no instance is registered; register one first")
        if len(served) > 1:
            raise InvalidRequest(f"model_name is needed: several models are served here: {served}")
        return served[0]

    def tokenizer(self, model: str) -> Tokenizer:
        """The tokenizer of a served model, loaded once; an alias or adapter has its model's."""
        return self._members.tokenizer(model)

    @property
    def default_engine(self) -> str:
        """What instances run that name no engine."""
        return self._workshop.default_engine


def _not_up(down: list[Watched], timeout_s: float) -> str:
    lines = []
    for watched in down:
        said = watched.reason or f"it did not come up within {timeout_s:g} s"
        lines.append(f"instance {watched.worker.id!r}: {said}")
    return "\n".join(lines)
