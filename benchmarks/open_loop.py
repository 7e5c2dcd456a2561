"""Poisson arrivals in one event loop, every answer streamed; what the plane adds to the engine."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads import requests, sim_pipeline
from sage_llm_ops.engines.base import Uplink
from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.engines.pump import Pump, shared_pump
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.requests import Request
from sage_llm_ops.types.wire import Accepted, CacheChanged, Done, EngineEvent, Hello, Stats


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `rate` requests a second for `seconds`, `tokens` streamed for each."""

    rate: float
    seconds: float
    tokens: int = 10
    decode_ms: float = 3.0
    instances: int = 4


class Stopwatch:
    """Sits around one inline worker: the pump it is woken by, and the uplink it reports to.

    So it knows when the engine's step was *due*, not only when its thread came round to it: an
    answer that is late because the plane's threads held the GIL counts against the plane.
    """

    def __init__(self, uplink: Uplink, pipeline: LivePipeline, pump: Pump) -> None:
        self.clock = pump.clock
        self.service: dict[str, float] = {}
        """Seconds between Accepted and Done, by request."""
        self._uplink, self._pump = uplink, pump
        self._running = pipeline.plane.running
        self._since: dict[NodeId, tuple[str, float]] = {}
        self._due: float | None = None
        self._worker: Any = None

    # as the worker's pump

    def attach(self, worker: Any) -> None:
        self._worker = worker
        self._pump.attach(self)

    def detach(self, worker: Any) -> None:
        self._pump.detach(self)

    def at(self, when: float, worker: Any) -> None:
        self._pump.at(when, self)

    def on_wake(self, when: float) -> None:
        self._due = when
        self._worker.on_wake(when)
        self._due = None

    # as the worker's uplink

    def on_events(self, worker: WorkerId, incarnation: int, events: Sequence[EngineEvent]) -> None:
        now = self._due or self.clock()
        for event in events:
            if isinstance(event, Accepted):
                self._since[event.node] = (self._running[event.node].request.id, now)
            elif isinstance(event, Done):
                request, since = self._since.pop(event.node)
                self.service[request] = now - since
        self._uplink.on_events(worker, incarnation, events)

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        self._uplink.on_stats(worker, stats)

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        self._uplink.on_cache(worker, incarnation, said)

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        self._uplink.on_up(worker, incarnation, hello)

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        self._uplink.on_down(worker, incarnation, reason)


def added_ms(load: Load, seed: int = 0) -> list[float]:
    """Milliseconds that each request took beyond its engine's service time."""
    watches: list[Stopwatch] = []

    def watched(instance: ExecutionInstance, pipeline: LivePipeline) -> InlineWorker:
        watch = Stopwatch(pipeline.hands, pipeline, shared_pump())
        watches.append(watch)
        pump: Any = watch
        return InlineWorker(instance, instance.options, watch, pump=pump)

    options: dict[str, Any] = {
        "prefix_cache": False,
        "prefill_ms": (0.0, 0.0, 0.0),
        "decode_ms": (0.0, 0.0, load.decode_ms),
    }
    with sim_pipeline(load.instances, make=watched, **options) as pipeline:
        took = asyncio.run(_open_loop(pipeline, load, seed))
    service = {request: spent for watch in watches for request, spent in watch.service.items()}
    return [(spent - service[request]) * 1e3 for request, spent in took.items()]


async def _open_loop(pipeline: LivePipeline, load: Load, seed: int) -> dict[str, float]:
    """Seconds from `submit` to the end of the stream, by request."""
    took: dict[str, float] = {}

    async def one(request: Request) -> None:
        began = time.monotonic()
        handle = pipeline.submit(request)
        count = 0
        async for piece in handle.stream():
            count += len(piece)
        took[request.id] = time.monotonic() - began
        if count != load.tokens:
            raise RuntimeError(f"{count} tokens came, {load.tokens} were asked for")

    rng, feed = random.Random(seed), requests(load.tokens)
    began = due = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        while due < began + load.seconds:
            wait = due - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.create_task(one(next(feed)))
            due += rng.expovariate(load.rate)
    return took
