"""A bounded window of requests in flight, all submitted and awaited by one thread."""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Iterator

from benchmarks.workloads import INSTANT, requests, sim_pipeline
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.types.requests import Request

WINDOW = 256
SLOTS = 512
"""Of all instances together, so that a pipeline of many and one of few have the same room."""
PATIENCE_S = 60.0


def drive(pipeline: LivePipeline, feed: Iterator[Request], n: int, window: int = WINDOW) -> float:
    """Submit `n` requests, the next one when the oldest in a full window has ended; seconds."""
    inside: deque[RequestHandle] = deque()
    began = time.perf_counter()
    for _ in range(n):
        if len(inside) >= window:
            inside.popleft().result(PATIENCE_S)
        inside.append(pipeline.submit(next(feed)))
    for handle in inside:
        handle.result(PATIENCE_S)
    return time.perf_counter() - began


def rates(repeats: int, n: int, instances: int = 4) -> list[float]:
    """Requests per second, once per repeat."""
    feed = requests(output_tokens=1)
    with sim_pipeline(instances, slots=SLOTS // instances, **INSTANT) as pipeline:
        drive(pipeline, feed, n // 4)
        return [n / drive(pipeline, feed, n) for _ in range(repeats)]


def growth_mb(n: int, warm_up: int, instances: int = 4) -> float:
    """How much larger the process is after `n` more requests."""
    feed = requests(output_tokens=1)
    with sim_pipeline(instances, slots=SLOTS // instances, **INSTANT) as pipeline:
        drive(pipeline, feed, warm_up)
        before = rss_mb()
        drive(pipeline, feed, n)
        return rss_mb() - before


def cost_ratios(repeats: int, n: int, few: int = 2, many: int = 64) -> list[float]:
    """CPU time of a request among `many` instances / among `few`, once per interleaved pair."""
    feed = requests(output_tokens=1)
    with (
        sim_pipeline(few, slots=SLOTS // few, **INSTANT) as small,
        sim_pipeline(many, slots=SLOTS // many, **INSTANT) as large,
    ):
        for pipeline in (small, large):
            drive(pipeline, feed, n // 2)
        ratios = []
        for turn in range(repeats):
            # Whoever goes second finds warmer caches: take turns.
            order = (small, large) if turn % 2 else (large, small)
            spent = {id(pipeline): _cpu_s(pipeline, feed, n) for pipeline in order}
            ratios.append(spent[id(large)] / spent[id(small)])
        return ratios


def _cpu_s(pipeline: LivePipeline, feed: Iterator[Request], n: int) -> float:
    began = time.process_time()
    drive(pipeline, feed, n)
    return time.process_time() - began


def rss_mb() -> float:
    """Resident memory of this process, garbage collected."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
