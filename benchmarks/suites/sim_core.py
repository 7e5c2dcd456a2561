"""What the simulated engine costs by itself: a trace over a few engines, no graph, no thread."""

from __future__ import annotations

import time
from heapq import heappop, heappush

from benchmarks.metric import Metric
from benchmarks.workloads import trace
from sage_llm_ops.engines.sim import SimCore, SimOptions
from sage_llm_ops.pipeline.traces import TraceRequest
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Done, Tokens

WORKLOAD = (
    "Requests of a trace (Mooncake's where SAGE_LLM_OPS_DATA or ../shared/data has it, else a "
    "synthetic one; n of the first metric says how many), round robin over 4 simulated engines on "
    "one virtual clock. The engine's own cost only: wall time and wake-ups over requests."
)
SIZES = {"ci": (5, 5000), "full": (15, 5000)}
OPTIONS = SimOptions(block_size=512, kv_blocks=2048, max_model_len=1 << 20, visible_tokens=False)


def to_node(request: TraceRequest, index: int, worker: str = "w0") -> PlanNode:
    """The request as one fused node."""
    return PlanNode(
        id=NodeId(index),
        request=RequestId(f"t{index}"),
        worker=worker,
        attempt=1,
        n_tokens=request.n_prompt,
        sampling=SamplingParams(max_tokens=request.n_output, temperature=0.0),
        blocks=request.blocks,
        block_size=request.block_size,
    )


def replay(
    requests: list[TraceRequest], options: SimOptions = OPTIONS, workers: int = 4
) -> dict[str, float]:
    """Round robin over `workers` engines on one virtual clock; metrics of cost and of outcome."""
    cores = [SimCore(options) for _ in range(workers)]
    nodes = [to_node(request, index) for index, request in enumerate(requests)]
    first: dict[int, float] = {}
    done: dict[int, float] = {}
    cached = wakes = 0
    heap: list[tuple[float, int]] = []
    armed: list[float | None] = [None] * workers
    begun = time.perf_counter()
    at = 0
    while at < len(nodes) or heap:
        if heap and (at >= len(nodes) or heap[0][0] <= requests[at].at):
            now, index = heappop(heap)
            if armed[index] != now:
                continue
            armed[index] = None
        else:
            now, index = requests[at].at, at % workers
            cores[index].submit(nodes[at], now)
            at += 1
        core = cores[index]
        wakes += 1
        for when, event in core.advance(now):
            if isinstance(event, Tokens):
                first.setdefault(event.node, when)
            elif isinstance(event, Done):
                done[event.node] = when
                cached += event.cached
        wake = core.next_wake()
        if wake is not None and wake != armed[index]:
            armed[index] = wake
            heappush(heap, (wake, index))
    spent = time.perf_counter() - begun
    count = max(1, len(nodes))
    ttft = sorted(first[i] - requests[i].at for i in first)
    return {
        "requests": len(nodes),
        "ended": len(done),
        "us_per_request": spent / count * 1e6,
        "wakes_per_request": wakes / count,
        "steps": sum(core.scheduler.steps for core in cores),
        "preemptions": sum(core.scheduler.preemptions for core in cores),
        "cached_tokens": cached,
        "prompt_tokens": sum(r.n_prompt for r in requests),
        "makespan_s": max(done.values(), default=0.0),
        "ttft_p50_s": ttft[len(ttft) // 2] if ttft else 0.0,
        "ttft_p99_s": ttft[len(ttft) * 99 // 100] if ttft else 0.0,
    }


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(repeats: int, size: int) -> dict[str, Metric]:
    """`repeats` runs over the first `size` requests of the trace."""
    _, requests = trace(size)
    runs = [replay(requests) for _ in range(repeats)]
    if any(run["ended"] != len(requests) for run in runs):
        raise RuntimeError("not every request ended")
    return {
        "sim_core_us_per_request": Metric.of(
            [run["us_per_request"] for run in runs], "us", len(requests)
        ),
        "sim_core_wakes_per_request": Metric.of(
            [run["wakes_per_request"] for run in runs], "wakes"
        ),
    }
