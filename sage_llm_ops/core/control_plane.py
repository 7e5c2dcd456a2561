"""The control plane: a pipeline, the workers under it and what callers need around it.

Plain methods, callable from any thread; `ControlPlaneManager` is its asynchronous face.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage_llm_ops.config import default_engine as resolve_engine
from sage_llm_ops.core.finished import Finished
from sage_llm_ops.core.honoured import Honoured
from sage_llm_ops.core.requests import as_request
from sage_llm_ops.core.stand_in import runs_as
from sage_llm_ops.core.supervisor import RestartPolicy, Supervisor, Watched
from sage_llm_ops.engines.base import Tokenizer, Uplink, Worker
from sage_llm_ops.engines.registry import engine_class, make_worker, placement_of
from sage_llm_ops.engines.tokenizers import tokenizer_for
from sage_llm_ops.operators import OPERATORS, Operator
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
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.requests import Request, RequestMetadata

log = logging.getLogger("sage_llm_ops.core")

MakeWorker = Callable[[ExecutionInstance, Uplink], Worker]


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
        self.instances: dict[str, ExecutionInstance] = {}
        self.started_at: float | None = None
        self.stopped_at: float | None = None
        self.ready = False
        """Whether `start` has returned and `stop` was not called."""
        self._runs: dict[str, ExecutionInstance] = {}
        """What gets the worker of each instance: itself, but for a stand-in."""
        self._honoured = Honoured(self.pipeline.hands)
        self._starting = threading.Lock()
        self._start_error = ""
        self._default_engine = default_engine
        self._log_dir = Path(log_dir) if log_dir is not None else None
        self._make = make
        self.supervisor = Supervisor(restart or RestartPolicy(), self._given_up)
        self._tokenizers: dict[str, Tokenizer] = {}
        self._lock = threading.RLock()
        self._stopped = False
        self.pipeline.hands.watch(self._noticed)
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

    def _launch(self) -> bool:
        """Begin; False where it was begun already."""
        with self._lock:
            if self._stopped:
                raise NotRunning("a stopped control plane cannot be started again; make a new one")
            if self.started_at is not None:
                return False
            workers = [self._worker(instance) for instance in self.instances.values()]
            self.pipeline.start()
            self.started_at = time.monotonic()
            for worker in workers:
                self._attach(worker)
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
        clean = self.pipeline.stop(timeout_s)
        self.stopped_at = time.monotonic()
        self.supervisor.stop(min(10.0, max(1.0, timeout_s)))
        return clean

    @property
    def running(self) -> bool:
        """Whether requests are taken."""
        return self.pipeline.running

    # -- instances ----------------------------------------------------------------------------

    def register(self, instance: ExecutionInstance) -> None:
        """Make an instance known. Opens nothing before `start`; after it the worker starts now."""
        with self._lock:
            if instance.instance_id in self.instances:
                raise ConfigError(
                    f"instance_id={instance.instance_id!r} is registered already; choose another"
                )
            self.instances[instance.instance_id] = instance
            self._runs[instance.instance_id] = runs_as(instance)
            if self.started_at is None or self._stopped:
                return
            try:
                worker = self._worker(instance)
            except Exception:
                self._remove(instance.instance_id)
                raise
            self._attach(worker)

    def unregister(self, instance_id: str, *, drain: bool = True, timeout_s: float = 60.0) -> None:
        """Take an instance out. With `drain` its running requests end first; what then is left, or
        without it everything, goes to other instances."""
        with self._lock:
            if instance_id not in self.instances:
                raise UnknownName("instance", instance_id, self.instances)
            instance = self.instances[instance_id]
            self._remove(instance_id)
        worker = self.pipeline.hands.workers.get(WorkerId(instance_id))
        if worker is None:
            return
        if drain:
            self.pipeline.drain_worker(worker.id)
            self.pipeline.hands.wait_empty(worker.id, timeout_s)
        self.supervisor.remove(worker.id)
        self.pipeline.detach(worker.id, "it was unregistered")
        self._honoured.forget()
        worker.stop(10.0)
        instance.health_status = "unknown"

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
        with self._lock:
            found = self._tokenizers.get(model)
            if found is None:
                instance = next(
                    i for i in self._runs.values() if model in (i.model_name, *i.other_names)
                )
                engine, _ = placement_of(instance, self._default_for(instance))
                found = tokenizer_for(engine, instance.model_name, instance.options)
                self._tokenizers[model] = found
            return found

    @property
    def default_engine(self) -> str:
        """What instances run that name no engine."""
        return resolve_engine(self._default_engine)

    def _default_for(self, instance: ExecutionInstance) -> str:
        """Not asked for where nothing depends on it: it may be undecided."""
        return instance.engine or ("http" if instance.wants_http else self.default_engine)

    # -- inside -------------------------------------------------------------------------------

    def _worker(self, instance: ExecutionInstance) -> Worker:
        if self._make is not None:
            return self._make(self._runs[instance.instance_id], self.pipeline.hands)
        runs = self._runs[instance.instance_id]
        default = self._default_for(runs)
        engine, placement = placement_of(runs, default)
        if placement != "http":
            engine_class(engine)  # a wrong name is told before anybody looks for its tokenizer
        if not runs.model_name:
            if engine != "sim":
                raise ConfigError(
                    f"instance {instance.instance_id!r} names no model_name and engine {engine!r} "
                    "has no default; set it"
                )
            instance.model_name = runs.model_name = "sim"
        tokens = self.tokenizer(runs.model_name).hash
        log_file = None
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
            log_file = os.fspath(self._log_dir / f"{instance.instance_id}.log")
        return make_worker(runs, self.pipeline.hands, default, log=log_file, tokenizer_hash=tokens)

    def _attach(self, worker: Worker) -> None:
        self.pipeline.attach(worker)
        self.supervisor.add(worker)

    def _noticed(self, change: str, worker: WorkerId, reason: str) -> None:
        instance = self.instances.get(worker)
        if instance is not None:
            instance.health_status = "healthy" if change == "up" else "unhealthy"
        self._honoured.forget()
        self.supervisor.notice(change, worker, reason)

    def _given_up(self, worker: WorkerId, reason: str) -> None:
        with self._lock:
            self._remove(worker)
        self.pipeline.detach(worker, f"it was given up: {reason}")
        self._honoured.forget()

    def _remove(self, instance_id: str) -> None:
        self.instances.pop(instance_id, None)
        self._runs.pop(instance_id, None)


def _not_up(down: list[Watched], timeout_s: float) -> str:
    lines = []
    for watched in down:
        said = watched.reason or f"it did not come up within {timeout_s:g} s"
        lines.append(f"instance {watched.worker.id!r}: {said}")
    return "\n".join(lines)


def describe(plane: ControlPlane) -> list[dict[str, Any]]:
    """One plain row an instance, for people."""
    rows = {row["worker"]: row for row in plane.pipeline.plane.fleet.describe()}
    out = []
    for identity, instance in plane.instances.items():
        worker = plane.pipeline.hands.workers.get(WorkerId(identity))
        about = worker.describe() if worker is not None else {}
        out.append({**rows.get(identity, {}), "health": instance.health_status, **about})
    return out
