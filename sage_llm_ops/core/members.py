"""Who belongs to the fleet: instances come, are replaced and leave, while the others serve."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sage_llm_ops.core.honoured import Honoured
from sage_llm_ops.core.leases import Leases, checked
from sage_llm_ops.core.stand_in import runs_as
from sage_llm_ops.core.supervisor import RestartPolicy, Supervisor
from sage_llm_ops.core.ticker import Ticker
from sage_llm_ops.core.workshop import Workshop
from sage_llm_ops.engines.base import Tokenizer, Worker
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.types.errors import ConfigError, EngineStartError, NotRunning, UnknownName
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance

log = logging.getLogger("sage_llm_ops.core")

STOP_WORKER_S = 10.0
"""A worker that leaves gets so long to end by itself."""
LEASE_TICK_S = 0.5
"""How often it is looked whether a lease has ended."""


class Members:
    """The registry and the workers under it. All methods may be called from any thread."""

    def __init__(
        self, pipeline: LivePipeline, workshop: Workshop, honoured: Honoured, policy: RestartPolicy
    ) -> None:
        self.instances: dict[str, ExecutionInstance] = {}
        self.given_up: dict[str, str] = {}
        """Instances that were taken out because they would not stay up, and why."""
        self.supervisor = Supervisor(policy, self._give_up)
        self._pipeline, self._workshop, self._honoured = pipeline, workshop, honoured
        self._runs: dict[str, ExecutionInstance] = {}
        self._changing: set[str] = set()
        self._lock = threading.RLock()
        self._rolling = threading.Lock()
        self._leases = Leases()
        self._expiring = Ticker("sage-llm-ops-leases", LEASE_TICK_S, self.end_leases)
        self._opened = self._closed = False
        pipeline.hands.watch(self._noticed)

    # -- life ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Make all workers, so that nothing is begun where one is refused; then start everything."""
        with self._lock:
            workers = [
                self._made(instance, self._runs[identity])
                for identity, instance in self.instances.items()
            ]
            self._pipeline.start()
            self._opened = True
            for worker in workers:
                self._attach(worker)

    def close(self) -> None:
        """Nobody comes in any more; `supervisor.stop` then ends those who are here."""
        with self._lock:
            self._closed = True
        self._expiring.stop()

    # -- membership ---------------------------------------------------------------------------

    def register(self, instance: ExecutionInstance) -> None:
        """Make an instance known. Opens nothing before `open`; after it the worker starts now."""
        identity = instance.instance_id
        with self._lock:
            if identity in self.instances:
                raise ConfigError(f"instance_id={identity!r} is registered already; choose another")
            if identity in self._changing:
                raise ConfigError(
                    f"instance {identity!r} is being taken out; wait for its end, or choose another id"
                )
            runs = runs_as(instance)
            serving = self._opened and not self._closed
            worker = self._made(instance, runs) if serving else None
            self.instances[identity], self._runs[identity] = instance, runs
            self.given_up.pop(identity, None)
            if worker is not None:
                self._attach(worker)

    def unregister(self, instance_id: str, drain_s: float | None) -> None:
        """Take an instance out, after at most `drain_s` for what it runs; None: at once."""
        with self._lock:
            self._refuse_changing(instance_id)
            instance = self.instances[instance_id]
            self._remove(instance_id)
            self._changing.add(instance_id)
        try:
            worker = self._pipeline.hands.workers.get(WorkerId(instance_id))
            if worker is not None:
                self._take_out(worker, "it was unregistered", drain_s)
                instance.health_status = "unknown"
        finally:
            self._changing.discard(instance_id)

    def replace(self, instance: ExecutionInstance, timeout_s: float) -> None:
        """See `ControlPlane.replace`."""
        identity = instance.instance_id
        with self._change(identity):
            runs = runs_as(instance)
            if not self._opened:
                self.instances[identity], self._runs[identity] = instance, runs
                return
            worker = self._made(instance, runs)
            old = self._pipeline.hands.workers.get(WorkerId(identity))
            if old is not None:
                self._take_out(old, "it was replaced", timeout_s, returns=True)
            with self._lock:
                if self._closed:
                    raise NotRunning(f"stopped while instance {identity!r} was replaced")
                self.instances[identity], self._runs[identity] = instance, runs
                self.given_up.pop(identity, None)
                self._attach(worker)
            said = self.supervisor.wait_settled(worker.id, timeout_s)
            if said:
                raise EngineStartError(f"instance {identity!r}, replaced, is not up: {said}")

    def roll(self, timeout_s: float) -> list[str]:
        """See `ControlPlane.roll`."""
        if not self._rolling.acquire(blocking=False):
            raise ConfigError("a rolling replacement is under way; wait for its end")
        try:
            waiting, done = list(self.instances), list[str]()
            while waiting:
                instance = self.instances.get(waiting.pop(0))
                if instance is None:
                    continue  # taken out meanwhile
                try:
                    self.replace(instance, timeout_s)
                except EngineStartError as error:
                    raise EngineStartError(
                        f"the rolling replacement stopped at {instance.instance_id!r}; replaced "
                        f"before: {done}; left as they were: {waiting}\n{error}"
                    ) from error
                done.append(instance.instance_id)
            return done
        finally:
            self._rolling.release()

    # -- leases -------------------------------------------------------------------------------

    def register_leased(self, instance: ExecutionInstance, lease_s: float) -> None:
        """`register`, for as long as `heartbeat` is called at least every `lease_s`."""
        checked(lease_s)
        self.register(instance)
        self._leases.grant(instance.instance_id, lease_s)
        self._expiring.start()

    def heartbeat(self, instance_id: str) -> float:
        """Renew a lease; its length in seconds."""
        return self._leases.renew(instance_id)

    def end_leases(self) -> None:
        """Take out whoever was not heard from in time."""
        for identity, lease_s in self._leases.expired():
            log.error("instance %s gave no heartbeat for %g s: unregistered", identity, lease_s)
            try:
                self.unregister(identity, None)
            except UnknownName:
                pass  # it left by itself just now
            except ConfigError:
                self._leases.grant(identity, lease_s)  # it is being replaced: looked at again later

    # -- questions ----------------------------------------------------------------------------

    def tokenizer(self, model: str) -> Tokenizer:
        """The tokenizer of a served model; an alias or adapter has its model's."""
        served = list(self._runs.values())
        return self._workshop.tokenizer(
            next(runs for runs in served if model in (runs.model_name, *runs.other_names))
        )

    # -- inside -------------------------------------------------------------------------------

    @contextmanager
    def _change(self, instance_id: str) -> Iterator[None]:
        """One at a time for each instance."""
        with self._lock:
            self._refuse_changing(instance_id)
            self._changing.add(instance_id)
        try:
            yield
        finally:
            self._changing.discard(instance_id)

    def _refuse_changing(self, instance_id: str) -> None:
        if instance_id not in self.instances:
            raise UnknownName("instance", instance_id, self.instances)
        if instance_id in self._changing:
            raise ConfigError(f"instance {instance_id!r} is being replaced; wait for its end")

    def _take_out(
        self, worker: Worker, why: str, drain_s: float | None, *, returns: bool = False
    ) -> None:
        """Drain, unless `drain_s` is None, then forget and stop a worker."""
        if drain_s is not None:
            self._pipeline.drain_worker(worker.id)
            self._pipeline.hands.wait_empty(worker.id, drain_s)
        self.supervisor.remove(worker.id)
        self._pipeline.detach(worker.id, why, returns=returns)
        self._honoured.forget()
        worker.stop(STOP_WORKER_S)

    def _made(self, instance: ExecutionInstance, runs: ExecutionInstance) -> Worker:
        """Its worker; the first that serves the model says how its text is read."""
        known = {**self._runs, instance.instance_id: runs}
        reads = next(one for one in known.values() if one.model_name == runs.model_name)
        return self._workshop.worker(instance, runs, reads)

    def _attach(self, worker: Worker) -> None:
        self._pipeline.attach(worker)
        self.supervisor.add(worker)

    def _noticed(self, change: str, worker: WorkerId, reason: str) -> None:
        instance = self.instances.get(worker)
        if instance is not None:
            instance.health_status = "healthy" if change == "up" else "unhealthy"
        self._honoured.forget()
        self.supervisor.notice(change, worker, reason)

    def _give_up(self, worker: WorkerId, reason: str) -> None:
        with self._lock:
            watched = self.supervisor.workers.get(worker)
            if watched is None or not watched.given_up:
                return  # its id belongs to another worker by now
            self._remove(worker)
            self.given_up[worker] = reason
            self._pipeline.detach(worker, f"it was given up: {reason}")
        self._honoured.forget()

    def _remove(self, instance_id: str) -> None:
        self.instances.pop(instance_id, None)
        self._runs.pop(instance_id, None)
        self._leases.forget(instance_id)
