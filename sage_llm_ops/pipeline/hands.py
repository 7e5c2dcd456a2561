"""Live hands: from decisions to workers, from workers to streams and events.

Tokens go straight from the worker's thread into the caller's stream; what changes a decision is
posted to the source. The table of running nodes is the only thing both sides share.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sage_llm_ops.engines.base import Worker
from sage_llm_ops.engines.tokenizers import estimate
from sage_llm_ops.pipeline.entering import came_up
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.live_source import LiveSource
from sage_llm_ops.pipeline.loop_bridge import hold, release
from sage_llm_ops.types.capabilities import Capabilities, first_set
from sage_llm_ops.types.errors import CapabilityError, IntegrityError
from sage_llm_ops.types.events import (
    Cancel,
    FirstToken,
    Job,
    KvBatch,
    Load,
    NodeAccepted,
    NodeDone,
    NodeFailed,
    Outcome,
    WorkerDown,
    WorkerLeave,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request
from sage_llm_ops.types.wire import (
    Accepted,
    CacheChanged,
    Done,
    EngineEvent,
    Failed,
    Hello,
    Stats,
    Tokens,
)

if TYPE_CHECKING:
    from sage_llm_ops.engines.kv_events import KvListener

log = logging.getLogger("sage_llm_ops.pipeline")


class Route:
    """One running node: whose stream its tokens go to."""

    __slots__ = ("delivered", "handle", "worker")

    def __init__(self, handle: RequestHandle, worker: WorkerId) -> None:
        self.handle = handle
        self.worker = worker
        self.delivered = 0

    @property
    def tokens(self) -> int:
        """How many tokens were delivered, or about how many where the ids are bytes of text."""
        return estimate(self.delivered) if self.handle.request.estimated else self.delivered


class LiveHands:
    """`Hands` of the graph and `Uplink` of the workers."""

    def __init__(
        self,
        source: LiveSource,
        on_end: Callable[[], None],
        remember: Callable[[RequestHandle], None] | None = None,
        *,
        max_unread: int = 0,
        cancel_slow: bool = True,
    ) -> None:
        self.workers: dict[WorkerId, Worker] = {}
        self.handles: dict[RequestId, RequestHandle] = {}
        """Accepted and not ended."""
        self.hellos: dict[WorkerId, Hello] = {}
        """What each worker said of itself when it last came up."""
        self.lives: dict[WorkerId, int] = {}
        """Incarnations under the ids of those who left: another worker of such an id goes on
        counting, so that a death which is heard late is not taken for its own."""
        self.stale = 0
        """Events of nodes that nobody waits for any more."""
        self._source = source
        self._on_end = on_end
        self._remember = remember
        self._max_unread = max_unread or sys.maxsize
        self._cancel_slow = cancel_slow
        self._routes: dict[NodeId, Route] = {}
        self._streams: defaultdict[WorkerId, threading.RLock] = defaultdict(threading.RLock)
        """Held while a worker reports, so that nobody counts its tokens half way."""
        self._ignores: dict[WorkerId, tuple[str, ...]] = {}
        self._adapters: dict[WorkerId, tuple[str, ...]] = {}
        """Of the workers that have any."""
        self._emptied = threading.Condition()
        self._awaited: set[WorkerId] = set()
        self._closed = False
        self._kv: KvListener | None = None
        """Hears the workers that publish what becomes of their prefix caches; made for the first."""
        self._watchers: list[Callable[[str, WorkerId, str], None]] = []

    # -- hands --------------------------------------------------------------------------------

    def execute(self, node: PlanNode, job: Job) -> None:
        """Compose the prompt (with what was delivered already) and hand it over."""
        worker = WorkerId(node.worker)
        handle = self.handles.get(job.request.id)
        try:
            if handle is None:
                raise IntegrityError(f"request {job.request.id!r} has no handle")
            handle.worker, handle.attempt, handle.taken = worker, node.attempt, False
            self._routes[node.id] = Route(handle, worker)  # first: what fails below must be told
            request = job.request
            node.tokens, node.sampling = request.tokens, request.sampling.after(node.offset)
            node.blocks, node.block_size = request.blocks, request.block_size
            node.trace = request.trace
            if self._adapters and node.model in self._adapters.get(worker, ()):
                node.lora = node.model
            node.untokenised = request.untokenised
            if node.kind == "prefill":
                node.sampling = node.sampling.first_only()
            if node.offset:
                node.tokens += _delivered(handle, node.offset)
            self._check_sampling(worker, request)
            attached = self.workers.get(worker)
            if attached is not None and attached.submit(node):
                if self.workers.get(worker) is attached:
                    return
                # `leave` came in between, and may have looked at the routes before this one.
            code, message = "worker_lost", f"worker {worker!r} is down"
        except CapabilityError as error:
            code, message = error.code, str(error)
        except Exception as error:
            log.exception("node %s could not be handed to %s", node.id, worker)
            code, message = "engine_failed", f"could not be handed to {worker!r}: {error}"
        if self._drop(node.id) is not None or handle is None:
            self._source.post(NodeFailed(node=node.id, reason=code, message=message))

    def cancel(self, node: NodeId, worker: WorkerId) -> None:
        """Pass a cancel on; a worker that is gone answers through its WorkerDown."""
        attached = self.workers.get(worker)
        if attached is not None:
            attached.cancel(node)

    def deliver(self, outcome: Outcome) -> None:
        """Tell the caller, if there is one."""
        identity = outcome.job.request.id
        handle = self.handles.get(identity)
        if handle is not None and handle.request is outcome.job.request:
            self.end(handle, outcome)

    def end(self, handle: RequestHandle, outcome: Outcome) -> None:
        """Remembered first, then forgotten here, then told: nobody who was told can miss it, and
        its place is free for whoever was told. Taking it out is also the claim to end it."""
        if self._remember is not None:
            self._remember(handle)
        if self.handles.pop(handle.request.id, None) is handle:
            handle.finish(outcome)
            self._on_end()

    # -- uplink -------------------------------------------------------------------------------

    def on_events(self, worker: WorkerId, incarnation: int, events: Sequence[EngineEvent]) -> None:
        """Events of one engine step."""
        bad: list[NodeId] = []
        mine = hold()
        try:
            self._take(worker, events, bad)
        finally:
            if mine:
                release()
        for node in bad:
            self.cancel(node, worker)  # nobody reads it any more, and its place is given away

    def _take(self, worker: WorkerId, events: Sequence[EngineEvent], bad: list[NodeId]) -> None:
        with self._streams[worker]:
            for event in events:
                route = self._routes.get(event.node)
                if route is None or route.worker != worker:
                    self.stale += 1
                    continue
                try:
                    self._on_event(route, event)
                except Exception as error:
                    # A worker that lies does so often, and where in here it was noticed says nothing.
                    log.error("worker %s: bad event for node %s: %r", worker, event.node, error)
                    self._fail(
                        event.node, "engine_failed", f"worker {worker!r} broke the stream: {error}"
                    )
                    bad.append(event.node)

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        """A worker about itself."""
        self._source.inform(
            Load(
                worker=worker,
                running=stats.running,
                waiting=stats.waiting,
                kv_usage=stats.kv_usage,
                steps=stats.samples,
            )
        )

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        """What it tells need not wake anybody: it comes in before the next request is placed."""
        self._source.inform(
            KvBatch(
                worker=worker, incarnation=incarnation, number=said.number, changes=said.changes
            )
        )

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        """A worker takes nodes."""
        attached = self._alive(worker, incarnation)
        if attached is None:
            return  # it left while it came up
        self.hellos[worker] = hello
        self._ignores[worker] = hello.capabilities.ignores
        can = hello.capabilities
        if can.adapters:
            self._adapters[worker] = can.adapters
        self._source.post(came_up(attached.instance, hello, incarnation))
        if can.prefix_cache and can.kv_events and not self._closed:
            self._listen(worker, incarnation, can)
        self._tell("up", worker, "")

    def _listen(self, worker: WorkerId, incarnation: int, can: Capabilities) -> None:
        """What it publishes is let in as what others tell (`on_cache`)."""
        from sage_llm_ops.engines.kv_events import KvListener

        with self._emptied:
            if self._kv is None:
                self._kv = KvListener(self._source.inform)
        self._kv.follow(worker, incarnation, can.kv_events, can.kv_replay)

    @property
    def corrupt_frames(self) -> int:
        """What came from workers' prefix caches and was no report."""
        return 0 if self._kv is None else self._kv.corrupt

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        """A worker is gone, and with it what it ran."""
        if self._alive(worker, incarnation) is None:
            return  # it left before, and what it ran went elsewhere
        if self._kv is not None:
            self._kv.leave(worker)
        self._source.post(WorkerDown(worker=worker, reason=reason, lost=self._forget(worker)))
        self._tell("down", worker, reason)

    # -- membership ---------------------------------------------------------------------------

    def watch(self, watcher: Callable[[str, WorkerId, str], None]) -> None:
        """`watcher(change, worker, reason)` is told of `up` and `down`, from the workers' threads."""
        self._watchers.append(watcher)

    def leave(self, worker: WorkerId, reason: str, *, returns: bool = False) -> None:
        """Take a worker out, for good or until another one `returns` under its id; what it still runs
        fails over."""
        left = self.workers.pop(worker, None)
        if left is not None:
            self.lives[worker] = left.incarnation
        self.hellos.pop(worker, None)
        if self._kv is not None:
            self._kv.leave(worker)
        self._ignores.pop(worker, None)
        self._adapters.pop(worker, None)
        lost = self._forget(worker)
        self._source.post(WorkerLeave(worker=worker, reason=reason, lost=lost, returns=returns))

    def running_on(self, worker: WorkerId) -> int:
        """Nodes whose end has not come yet."""
        return sum(route.worker == worker for route in list(self._routes.values()))

    def wait_empty(self, worker: WorkerId, timeout_s: float) -> bool:
        """Until a worker that is given nothing new has ended what it holds; False at the time-out."""
        with self._emptied:
            self._awaited.add(worker)
            try:
                self._emptied.wait_for(
                    lambda: self._closed or not self.running_on(worker), timeout_s
                )
                return not self.running_on(worker)
            finally:
                self._awaited.discard(worker)

    def close(self) -> None:
        """The run is over: nobody has to wait for a worker any more."""
        with self._emptied:
            self._closed = True
            self._emptied.notify_all()
        if self._kv is not None:
            self._kv.close()

    # -- inside -------------------------------------------------------------------------------

    def _alive(self, worker: WorkerId, incarnation: int) -> Worker | None:
        """Who says so, if it still belongs here."""
        attached = self.workers.get(worker)
        return attached if attached is not None and attached.incarnation == incarnation else None

    def _on_event(self, route: Route, event: EngineEvent) -> None:
        kind = event.__class__
        if kind is Tokens:
            assert isinstance(event, Tokens)
            first = not route.delivered
            unread = route.handle.push(event.offset, event.ids)
            if unread > self._max_unread:
                self._too_slow(route.handle, unread)
            route.delivered += len(event.ids)
            if first and event.ids:
                at = self._source.clock()
                self._source.inform(FirstToken(node=event.node, cached=event.cached, at=at))
        elif kind is Accepted:
            route.handle.taken = True
            self._source.inform(NodeAccepted(node=event.node, at=self._source.clock()))
        elif kind is Done:
            assert isinstance(event, Done)
            self._on_done(route, event)
        elif kind is Failed:
            assert isinstance(event, Failed)
            self._fail(event.node, event.code, event.message)

    def _too_slow(self, handle: RequestHandle, unread: int) -> None:
        """Once per request: as an event, so that a replay ends it too."""
        if handle.lagging:
            return
        handle.lagging = True
        said = f"its reader is {unread} tokens behind, max_unread_tokens={self._max_unread}"
        if not self._cancel_slow:
            log.warning("request %r: %s; they are kept", handle.request.id, said)
            return
        fix = "read faster, raise it, or set slow_reader to 'buffer'"
        self._source.post(
            Cancel(request=handle.request.id, code="slow_reader", message=f"{said}; {fix}")
        )

    def _on_done(self, route: Route, event: Done) -> None:
        if event.n_tokens != route.delivered:
            said, came = event.n_tokens, route.delivered
            raise IntegrityError(f"it says it made {said} tokens, {came} came")
        if event.embedding is not None:
            route.handle.embedding = tuple(event.embedding)
        route.handle.counted = event.counted
        if self._drop(event.node) is not None:
            self._source.post(
                NodeDone(
                    node=event.node,
                    finish_reason=event.finish_reason,
                    n_tokens=event.counted[1] if event.counted else route.tokens,
                    cached=event.cached,
                )
            )

    def _fail(self, node: NodeId, code: str, message: str) -> None:
        route = self._drop(node)
        if route is not None:
            self._source.post(
                NodeFailed(node=node, reason=code, message=message, delivered=route.tokens)
            )

    def _check_sampling(self, worker: WorkerId, request: Request) -> None:
        """A worker that came up after the request was let in may not honour all of it."""
        ignores = self._ignores.get(worker)
        if ignores and request.task == "generate":
            field = first_set(request.sampling, ignores)
            if field is not None:
                hello, value = self.hellos[worker], getattr(request.sampling, field)
                raise CapabilityError(hello.capabilities.refusal(hello.engine, field, value))

    def _drop(self, node: NodeId) -> Route | None:
        route = self._routes.pop(node, None)
        if route is not None and route.worker in self._awaited:
            with self._emptied:
                self._emptied.notify_all()
        return route

    def _forget(self, worker: WorkerId) -> dict[int, int]:
        """Drop the worker's routes; tokens each of them brought, between two of its reports."""
        delivered: dict[int, int] = {}
        with self._streams[worker]:
            gone = [n for n, route in list(self._routes.items()) if route.worker == worker]
            for node in gone:
                route = self._drop(node)
                if route is not None:
                    delivered[node] = route.tokens
        return delivered

    def _tell(self, change: str, worker: WorkerId, reason: str) -> None:
        for watcher in self._watchers:
            watcher(change, worker, reason)


def _delivered(handle: RequestHandle, count: int) -> bytes:
    """The tokens of the attempts before, as the worker wants them."""
    if len(handle.tokens) != count:
        raise IntegrityError(f"{len(handle.tokens)} tokens came, {count} are counted")
    return np.asarray(handle.tokens, dtype="<i4").tobytes()
