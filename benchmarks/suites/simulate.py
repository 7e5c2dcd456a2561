"""What a simulated request costs, beside what SAGE alone charges for the same traffic."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from sage.foundation import MapFunction, SinkFunction
from sage.runtime import LocalEnvironment, StopSignal

from benchmarks.metric import Metric
from benchmarks.workloads import trace
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.pipeline.sage_graph import Intake, close, silence_sage
from sage_llm_ops.pipeline.simulate import simulate
from sage_llm_ops.pipeline.traces import TraceRequest, to_request

WORKLOAD = (
    "Requests of a trace (Mooncake's conversation trace where SAGE_LLM_OPS_DATA or ../shared/data "
    "has it, else a synthetic one; n says how many) simulated on 4 instances, wall time over "
    "requests. The plain chain is source -> one identity map for each operator of the graph -> "
    "sink, fed the same number of events: four a request. Ratio: simulation / plain chain, one "
    "after the other in each repeat."
)
INSTANCES = 4
EVENTS_A_REQUEST = 4
OPTIONS = SimOptions(block_size=512, kv_blocks=2048, visible_tokens=False)
SIZES = {"ci": (5, 5000), "full": (15, 5000)}


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(repeats: int, size: int) -> dict[str, Metric]:
    """`repeats` pairs over the first `size` requests of the trace."""
    _, requests = trace(size)
    size = len(requests)
    simulated, plain = [], []
    for _ in range(repeats):
        simulated.append(_simulated_s(requests))
        plain.append(_plain_s(size * EVENTS_A_REQUEST, len(serving().operators)))
    return {
        "simulate_us_per_request": Metric.of([s / size * 1e6 for s in simulated], "us", size),
        "simulate_vs_plain_sage_ratio": Metric.of(
            [s / p for s, p in zip(simulated, plain, strict=True)], "ratio"
        ),
    }


def _simulated_s(requests: list[TraceRequest]) -> float:
    arrivals = [(r.at, to_request(r, i, "sim")) for i, r in enumerate(requests)]
    gc.collect()
    report = simulate(serving(), arrivals, instances=INSTANCES, options=OPTIONS)
    if report.ends != {"": len(requests)}:
        raise RuntimeError(f"not every request completed: {report.ends}")
    return report.real_s


class _Same(MapFunction):
    def execute(self, data: Any) -> Any:
        return data


class _Drop(SinkFunction):
    def execute(self, data: Any) -> None:
        return None


def _plain_s(events: int, maps: int) -> float:
    """SAGE by itself, run as the simulation is: one thread, no sleeping."""
    silence_sage()
    env = LocalEnvironment("plain")
    env.set_console_log_level("ERROR")
    stream = env.from_source(Intake, _counter(events), delay=0.0)
    for _ in range(maps):
        stream = stream.map(_Same)
    stream.sink(_Drop)
    gc.collect()
    began = time.perf_counter()
    env.submit(autostop=True)
    spent = time.perf_counter() - began
    close(env)
    return spent


def _counter(events: int) -> Callable[[], Any]:
    left = iter(range(1, events + 1))
    return lambda: next(left, None) or StopSignal("enough")
