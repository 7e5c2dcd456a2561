"""The live driver: real workers, wall clock."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage_llm_ops.config import dump_pipeline
from sage_llm_ops.engines.base import Tokenizer, Worker
from sage_llm_ops.operators import OPERATORS, Operator, Plane, PrefixView
from sage_llm_ops.operators.base import check_live
from sage_llm_ops.pipeline.entering import joined
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.hands import LiveHands
from sage_llm_ops.pipeline.live_source import LiveSource
from sage_llm_ops.pipeline.loop_bridge import LoopBridge
from sage_llm_ops.pipeline.recording import Recorder
from sage_llm_ops.pipeline.sage_graph import close, wire
from sage_llm_ops.pipeline.watchdog import Watchdog
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.types.errors import (
    ConfigError,
    DuplicateRequest,
    NotRunning,
    Overloaded,
    UnknownName,
)
from sage_llm_ops.types.events import (
    Arrive,
    Cancel,
    ConfigSet,
    Drain,
    Job,
    Outcome,
)
from sage_llm_ops.types.ids import RequestId, WorkerId
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.requests import Request

log = logging.getLogger("sage_llm_ops.pipeline")


class LivePipeline:
    """One running graph. All methods may be called from any thread.

    `submit` accepts or refuses at once; what is accepted ends exactly once, whatever happens.
    """

    def __init__(
        self,
        spec: PipelineSpec,
        *,
        registry: Mapping[str, type[Operator]] = OPERATORS,
        record: str | Path | None = None,
        prefix: PrefixView | None = None,
        clock: Callable[[], float] = time.monotonic,
        remember: Callable[[RequestHandle], None] | None = None,
        watchdog: Callable[[LiveSource, Callable[[str], None]], Watchdog] = Watchdog,
    ) -> None:
        self.spec = spec
        self.graph = check(spec, registry)
        self.ledger = Ledger(spec.ledger)
        self.source = LiveSource(clock)
        self._record = record
        self._recorder: Recorder | None = None
        self.hands = LiveHands(
            self.source,
            self._ended,
            remember,
            max_unread=spec.max_unread_tokens,
            cancel_slow=spec.slow_reader == "cancel",
        )
        self.plane = Plane(self.source, self.hands, self.ledger, prefix)
        self.operators = self.graph.operators(self.plane)
        if isinstance(self.plane.prefix, PrefixFleet):
            self.plane.prefix.clock = time.perf_counter
        self._env = wire(self.graph, self.operators, self.source)
        self._open = False
        self._closed = False
        self._over = ""
        """Why nothing can end by the graph any more."""
        self._idle = threading.Condition()
        self._awaited = False
        self._watchdog = watchdog(self.source, self._died)
        self._max_in_flight = spec.max_in_flight

    # -- life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Submit the graph to SAGE and open the door."""
        if self._record is not None:
            self._recorder = Recorder(self._record, dump_pipeline(self.spec))
            self.source.record = self._recorder
        self.source.idle_hook = self.ledger.flush
        self.source.gathers = True
        self._env.submit()
        self._watchdog.start()
        self._open = True

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Close the door, let what is inside end, fail what is left; True if nothing was left."""
        if self._closed:
            return True
        self._open = False
        self._closed = True
        left = not self.wait_idle(timeout_s)
        self._watchdog.stop()
        self.source.stop()
        stopped = self.source.wait_ended(5.0)
        self._fail_all(f"the pipeline was stopped and it had not ended after {timeout_s:g} s")
        self.hands.close()
        if not stopped:  # SAGE would wait a minute for the dispatch that hangs
            threading.Thread(target=close, args=(self._env,), daemon=True).start()
        else:
            close(self._env)
            self.ledger.close()
            if self._recorder is not None:
                self._recorder.close(self.ledger.digest, self.ledger.decisions)
        return not left

    def discard(self) -> None:
        """Forget a pipeline that was never started."""
        self._closed = True
        close(self._env)

    def wait_idle(self, timeout_s: float) -> bool:
        """Until nothing accepted is left; False at the time-out."""
        with self._idle:
            self._awaited = True
            return self._idle.wait_for(lambda: not self.hands.handles, timeout_s)

    @property
    def running(self) -> bool:
        """Whether `submit` accepts."""
        return self._open

    # -- requests -----------------------------------------------------------------------------

    def submit(self, request: Request, tokenizer: Tokenizer | None = None) -> RequestHandle:
        """Accept a request, or refuse it: `NotRunning`, `Overloaded`, `DuplicateRequest`."""
        handles = self.hands.handles
        if not self._open:
            raise NotRunning("the pipeline is not running; start it first", request_id=request.id)
        if len(handles) >= self._max_in_flight:
            raise Overloaded(
                f"{len(handles)} requests are in flight and max_in_flight={self._max_in_flight}; "
                "wait for some to end or raise it",
                request_id=request.id,
                retry_after_s=1.0,
            )
        handle = RequestHandle(request, tokenizer)
        if handles.setdefault(request.id, handle) is not handle:
            raise DuplicateRequest("the id is in use by a running request", request_id=request.id)
        request.arrived = 0.0  # until the source takes it; see `cancel`
        self.source.post(Arrive(request=request))
        if self._over:
            self._fail(handle, self._over)
        return handle

    def cancel(self, request: RequestId, *, code: str = "cancelled", message: str = "") -> None:
        """Ask to end it, with this code; its handle tells when it has. Nothing happens if it ended
        already."""
        handle = self.hands.handles.get(request)
        if handle is not None:
            # It must not overtake its request, which may still wait at the source.
            waits = handle.request.arrived == 0.0
            end = Cancel(request=request, code=code, message=message)
            self.source.post(end, behind_arrivals=waits)

    # -- fleet --------------------------------------------------------------------------------

    def attach(self, worker: Worker) -> None:
        """Make a worker known. It takes nodes once it reports itself up."""
        if self.hands.workers.setdefault(worker.id, worker) is not worker:
            raise ConfigError(f"worker {worker.id!r} is attached already; detach it first")
        worker.incarnation = self.hands.lives.get(worker.id, worker.incarnation)
        self.source.post(joined(worker.instance))

    def drain_worker(self, worker: WorkerId) -> None:
        """Give it nothing new; once this returns nothing more is on its way to it."""
        self.source.post_and_wait(Drain(worker=worker), 5.0)

    def detach(self, worker: WorkerId, reason: str, *, returns: bool = False) -> None:
        """Forget a worker; what it still runs fails over. With `returns` the next `attach` is another
        one of its id, and who waits for it goes on waiting."""
        self.hands.leave(worker, reason, returns=returns)

    # -- configuration ------------------------------------------------------------------------

    def configure(self, operator: str, option: str, value: int | float | str | bool) -> None:
        """Change a live option, in order with all other events."""
        found = self.operators.get(operator)
        if found is None:
            raise UnknownName("operator", operator, self.operators)
        check_live(found, option, value)
        self.source.post(ConfigSet(operator=operator, option=option, value=value))

    def prefixes(self) -> dict[str, Any]:
        """What prefix reuse brought so far; empty where nobody looks prefixes up."""
        view = self.plane.prefix
        if not isinstance(view, PrefixFleet):
            return {}
        row = view.row(self.source.clock())
        if self.hands.corrupt_frames:
            row["drops"]["corrupt_frame"] = self.hands.corrupt_frames
        return row

    # -- inside -------------------------------------------------------------------------------

    def _ended(self) -> None:
        if self._awaited and not self.hands.handles:
            with self._idle:
                self._idle.notify_all()

    def _died(self, reason: str) -> None:
        """The watchdog's verdict."""
        log.error("pipeline %r is dead: %s", self.spec.name, reason)
        self._open = False
        self._fail_all(f"the pipeline died: {reason}")
        LoopBridge.wake_all()  # its thread may have died with what it ended untold

    def _fail_all(self, message: str) -> None:
        self._over = message  # before looking: who is inserted later sees it and fails itself
        for handle in list(self.hands.handles.values()):
            self._fail(handle, message)

    def _fail(self, handle: RequestHandle, message: str) -> None:
        request = handle.request
        if self.hands.handles.get(request.id) is not handle:
            return
        job = self.plane.jobs.get(request.id) or Job(request, 0)
        end = Outcome(0, self.source.clock(), job, code="pipeline_died", message=message)
        self.hands.end(handle, end)
