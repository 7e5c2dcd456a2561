"""What one whole decision costs, and how that grows with the fleet and with the queue."""

from __future__ import annotations

import gc
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import peer_dynamo
from benchmarks.beginnings import BLOCK, BLOCKS, holders, prompts
from benchmarks.metric import Metric, percentile
from sage_llm_ops.fleet import Fleet
from sage_llm_ops.operators import Plane
from sage_llm_ops.operators.route import Route, RouteOptions
from sage_llm_ops.pipeline.replay import NoHands, ReplaySource
from sage_llm_ops.scheduler_ir import STRATEGIES
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import Needs, NodeId, RequestId, WorkerId
from sage_llm_ops.types.requests import Request, SamplingParams

WORKLOAD = """\
One thread. A decision: push into `fifo`, offer, the operator Route with `predicted_latency` on equal
workers of known speed, given the prefix hits of a prompt of 135 blocks of 64 tokens (it begins with
up to 100 blocks of one of 64 beginnings; one worker holds all of that beginning, two hold a part),
reserve, write to the ledger (digest, memory
and a file of JSON lines), placed; and release of the node placed 64 decisions before.
decisions_per_s, decision_p50_us: 8 workers. cost_ratio_1024_vs_8: median time of a decision on 1,024
workers / on 8, interleaved. queue_op_us: push, offer and placed, over three, with 100,000 pending
in `slo_aware`. vs_dynamo_ratio: our rate / that of Dynamo's `SelectionService`
(`select_and_reserve` and free, ai-dynamo-runtime, extra `bench`) in the same run on the same prompts,
its workers holding the same beginnings (published as KV events, and checked); left out where it is not
installed. Not the same work: we are given the prefix hits, Dynamo looks its prompts up in an index of
its own, and its calls are awaited one by one from Python; it writes no ledger."""

HELD = 64
SPEED = (16.5, 0.0152, 0.0, 4.2e-7, 10.0, 0.0, 2.7e-5)
NEEDS: Needs = ("m", "generate", "")
SIZES = {"ci": (5, 4_000, 1_000), "full": (15, 20_000, 4_000)}


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(repeats: int, size: int, wide: int) -> dict[str, Metric]:
    """`repeats` runs of `size` decisions on 8 workers, and of `wide` on 1,024."""
    rates: list[float] = []
    halves: list[float] = []
    ratios: list[float] = []
    peers: list[float] = []
    for turn in range(repeats):
        small, large = decisions(8, size, turn), decisions(1024, wide, turn)
        rates.append(size / sum(small))
        halves.append(percentile(small, 0.5))
        ratios.append(percentile(large, 0.5) / percentile(small, 0.5))
        peer = peer_dynamo.rate(prompts(size, turn), holders(8, turn), workers=8)
        if peer is not None:
            peers.append(rates[-1] / peer)
    found = {
        "decisions_per_s": Metric.of(rates, "1/s", size * repeats),
        "decision_p50_us": Metric.of([half * 1e6 for half in halves], "us", size * repeats),
        "cost_ratio_1024_vs_8": Metric.of(ratios, "ratio"),
        "queue_op_us": Metric.of([queue_op_us(turn) for turn in range(repeats)], "us"),
    }
    if peers:
        found["vs_dynamo_ratio"] = Metric.of(peers, "ratio")
    return found


def decisions(workers: int, n: int, seed: int) -> list[float]:
    """Seconds of each decision."""
    strategy = STRATEGIES["fifo"]()
    held = holders(workers, seed)
    asked = [
        (_job(number, None), {WorkerId(f"w{w}"): BLOCK * n for w, n in prompt.hits(held).items()})
        for number, prompt in enumerate(prompts(n, seed))
    ]
    took = []
    with tempfile.TemporaryDirectory(prefix="sage-llm-ops-bench-") as directory:
        ledger = Ledger(Path(directory) / "ledger.jsonl")
        plane = Plane(ReplaySource(iter(())), NoHands(), ledger)
        fleet = plane.fleet
        _populate(fleet, workers)
        ledger.fleet(0, 0.0, 1, fleet.ids)
        route = Route(plane, RouteOptions("predicted_latency"), "route")
        gc.collect()
        for number, (job, hits) in enumerate(asked):
            began = time.perf_counter()
            now = number * 1e-4
            strategy.push(job, now)
            found = strategy.offer(now, lambda needs: not fleet.has_room(needs))
            assert found is not None
            placed = route.offer(Offer(number, now, found, hits, ("fused",)))
            strategy.placed(placed.job.request.id, now)
            if number >= HELD:
                fleet.release(NodeId(number - HELD + 1))
            took.append(time.perf_counter() - began)
        ledger.close()
    return took


def queue_op_us(seed: int, pending: int = 100_000, n: int = 5_000) -> float:
    """Microseconds of a push, an offer or a placed, with so many pending."""
    rng = random.Random(seed)
    strategy = STRATEGIES["slo_aware"]()
    jobs = [_job(number, rng.uniform(60_000.0, 90_000.0)) for number in range(pending + n)]
    for job in jobs[:pending]:
        strategy.push(job, 0.0)
    gc.collect()
    began = time.perf_counter()
    for job in jobs[pending:]:
        strategy.push(job, 0.0)
        found = strategy.offer(0.0, lambda needs: False)
        assert found is not None
        strategy.placed(found.request.id, 0.0)
    return (time.perf_counter() - began) / (3 * n) * 1e6


def _populate(fleet: Fleet, workers: int) -> None:
    for number in range(workers):
        worker = WorkerId(f"w{number}")
        fleet.join(worker, "m")
        fleet.up(worker, ("m",), 256, 1 << 17, ("generate",))
        fleet.traits.speed(number, np.array(SPEED))


def _job(number: int, slo_ms: float | None) -> Job:
    sampling = SamplingParams(max_tokens=200)
    request = Request(RequestId(f"r{number}"), "m", b"", BLOCKS * BLOCK, sampling, slo_ms=slo_ms)
    return Job(request, number)
