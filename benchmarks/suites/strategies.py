"""Every order and every routing under recorded arrivals, simulated: who meets its objectives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from benchmarks.metric import Metric, percentile
from benchmarks.workloads import azure, trace
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.pipeline.simulate import simulate
from sage_llm_ops.pipeline.traces import TraceRequest, to_request
from sage_llm_ops.scheduler_ir import ROUTINGS, STRATEGIES
from sage_llm_ops.types.events import Outcome
from sage_llm_ops.types.requests import Request

WORKLOAD = """\
Azure's conversation trace and Mooncake's (synthetic ones in their likeness where the data is not at
hand), lengths and order of arrival as recorded, times stretched so that requests arrive at 0.7, 0.95
and 1.3 of what the fleet can do; that is measured first, with everything there from the start. 4
simulated workers of 32 places (Dynamo's mocker timing). Objective of a request: 2 s + 3 times what it
takes alone. Four tenants: one sends half, the others the rest. Each order with `load_balanced`, each
routing with `fifo`; all are told which worker holds which prefix.
slo: share of requests that met their objective; goodput: those a second of arrivals; queue: arrival
to place, ms; fairness: tokens of a tenant's requests that had ended when the last one arrived, over
its max-min fair part of all such tokens; the least of the tenants (1: nobody got less than that).
Names are workload/load/policy/number. Relations stand at the end, each the mean over n runs that leave
out the first 0, 61, 122 ... requests: who is late in an overload hangs on who came first, so one run
tells little where few meet their objective. vs_fifo: at 1.3, goodput over that of fifo;
worst_goodput_vs_fifo: the worst of all orders and routings; worst_goodput_errors: that of the policy
whose goodput is furthest
below fifo's, counted in standard errors of the paired difference; slo of predicted_latency less that of
round_robin in the worst cell; slo_noise_round_robin: how far round_robin's own slo moves over the runs,
the most of all cells."""

INSTANCES = 4
LOADS = (0.7, 0.95, 1.3)
SIZES = {"ci": 1_500, "full": 5_000}
STARTS = 8
"""Runs of a cell where two policies are told apart by less than one run's luck."""
APART = 61
"""Requests between two starts; no multiple of the workers or the tenants."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A workload with the fleet it runs on."""

    name: str
    source: str
    requests: list[TraceRequest]
    options: SimOptions


@dataclass(frozen=True, slots=True)
class Result:
    """One simulation."""

    slo: float
    goodput: float
    queue: list[float]
    fairness: float


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(size: int, loads: Sequence[float] = LOADS) -> dict[str, Metric]:
    """All metrics over the first `size` requests of each workload."""
    found: dict[str, Metric] = {}
    apart: list[list[float]] = []
    plain: list[list[float]] = []
    goodputs: list[list[float]] = []
    below: list[float] = []
    for scene in scenes(size):
        capacity = capacity_of(scene)
        for load in loads:
            rate = capacity * load
            often = policies() if load > 1.0 else ["round_robin", "predicted_latency"]
            runs = {name: _starts(scene, rate, name) for name in often}
            for name in policies():
                result = runs[name][0] if name in runs else one(scene, rate, name)
                found |= _metrics(f"{scene.name}/{load:g}/{name}", result, size)
            pairs = zip(runs["predicted_latency"], runs["round_robin"], strict=True)
            apart.append([ours.slo - theirs.slo for ours, theirs in pairs])
            plain.append([run.slo for run in runs["round_robin"]])
            if load > 1.0:
                for name, (ratios, errors) in _against_fifo(runs).items():
                    found[f"{scene.name}/{load:g}/{name}/vs_fifo"] = _mean(ratios, "ratio")
                    goodputs.append(ratios)
                    below.append(errors)
    if goodputs:
        found["worst_goodput_vs_fifo"] = _mean(min(goodputs, key=fmean), "ratio")
        found["worst_goodput_errors"] = Metric.of([min(below)], "standard errors")
    found["worst_slo_predicted_vs_round_robin"] = _mean(min(apart, key=fmean), "share")
    noise = max(max(runs) - min(runs) for runs in plain)
    found["slo_noise_round_robin"] = Metric.of([noise], "share")
    return found


def _starts(scene: Scene, rate: float, name: str) -> list[Result]:
    """Runs on all but the same requests, the first on all of them."""
    alike = [replace(scene, requests=scene.requests[n * APART :]) for n in range(STARTS)]
    return [one(shorter, rate, name) for shorter in alike]


def _against_fifo(runs: Mapping[str, list[Result]]) -> dict[str, tuple[list[float], float]]:
    """Each policy's goodput over fifo's mean, and its difference in standard errors."""
    fifo = [run.goodput for run in runs["fifo"]]
    found = {}
    for name, results in runs.items():
        goodput = [run.goodput for run in results]
        apart = [ours - theirs for ours, theirs in zip(goodput, fifo, strict=True)]
        error = stdev(apart) / len(apart) ** 0.5
        ratios = [value / fmean(fifo) for value in goodput]
        found[name] = (ratios, fmean(apart) / error if error else 0.0)
    return found


def _mean(runs: list[float], unit: str) -> Metric:
    return replace(Metric.of(runs, unit), value=fmean(runs))


def policies() -> list[str]:
    """`load_balanced` with `fifo` stands under `fifo`."""
    return [*STRATEGIES, *(name for name in ROUTINGS if name != "load_balanced")]


def scenes(size: int) -> list[Scene]:
    """The two workloads."""
    small = {"max_num_seqs": 32, "visible_tokens": False}
    return [
        Scene("azure", *azure(size), SimOptions(**small)),
        Scene("mooncake", *trace(size), SimOptions(block_size=512, kv_blocks=2048, **small)),
    ]


def part(scene: Scene, first: float, last: float) -> Scene:
    """From one share of its requests to another."""
    n = len(scene.requests)
    return replace(scene, requests=scene.requests[round(first * n) : round(last * n)])


def capacity_of(scene: Scene) -> float:
    """Requests a second that the fleet ends when all are there from the start: those of the middle,
    since the first come cold and the last leave places empty."""
    arrivals = [(0.0, to_request(r, i, "sim")) for i, r in enumerate(scene.requests)]
    ends: list[float] = []
    simulate(
        serving(), arrivals, instances=INSTANCES, options=scene.options,
        on_end=lambda end: ends.append(end.now),
    )  # fmt: skip
    first, last = len(ends) // 5, len(ends) * 4 // 5
    return (last - first) / (ends[last] - ends[first])


def one(scene: Scene, rate: float, policy: str, options: Mapping[str, Any] | None = None) -> Result:
    """One simulation at so many requests a second."""
    first = scene.requests[0].at
    stretch = (len(scene.requests) - 1) / (scene.requests[-1].at - first) / rate
    arrivals = [
        ((r.at - first) * stretch, asked(r, i, scene)) for i, r in enumerate(scene.requests)
    ]
    given = dict(options or {})
    spec = (
        serving(scheduling_policy=policy, scheduling_options=given)
        if policy in STRATEGIES
        else serving(routing_strategy=policy, routing_options=given)
    )
    ends: list[Outcome] = []
    simulate(
        spec, arrivals, instances=INSTANCES, options=scene.options, on_end=ends.append,
        knows_prefixes=True,
    )  # fmt: skip
    return _judge(ends, arrivals[-1][0])


def asked(row: TraceRequest, index: int, scene: Scene) -> Request:
    """With its objective and its tenant."""
    request = to_request(row, index, "sim")
    request.slo_ms = 2_000.0 + 3.0 * alone_ms(row, scene.options)
    request.tenant = "big" if index % 2 else f"small{index % 3}"
    return request


def alone_ms(row: TraceRequest, options: SimOptions) -> float:
    """What it takes on an idle worker with an empty cache."""
    base, per_token, _, square, decode, _, per_context = options.step_ms
    n, out = row.n_prompt, row.n_output
    return base + per_token * n + square * n * n + out * (decode + per_context * (n + out / 2))


def _judge(ends: list[Outcome], span_s: float) -> Result:
    met, queue = 0, []
    asked_for: dict[str, int] = defaultdict(int)
    served: dict[str, int] = defaultdict(int)
    for end in ends:
        job = end.job
        request = job.request
        took = (end.now - request.arrived) * 1e3
        assert request.slo_ms is not None
        met += not end.code and took <= request.slo_ms
        if job.placed is not None:
            queue.append((job.placed - request.arrived) * 1e3)
        tokens = request.n_prompt + request.max_tokens
        asked_for[request.tenant] += tokens
        served[request.tenant] += tokens if end.now <= span_s else 0
    parts = fair_parts(asked_for, sum(served.values()))
    fairness = min(served[tenant] / part for tenant, part in parts.items())
    return Result(met / len(ends), met / span_s, queue, min(1.0, fairness))


def fair_parts(asked_for: Mapping[str, int], total: int) -> dict[str, float]:
    """Max-min: nobody gets more than it asked for, and what is left over is shared alike."""
    parts, left = {}, float(total)
    for place, tenant in enumerate(sorted(asked_for, key=lambda name: asked_for[name])):
        parts[tenant] = min(float(asked_for[tenant]), left / (len(asked_for) - place))
        left -= parts[tenant]
    return parts


def _metrics(name: str, result: Result, n: int) -> dict[str, Metric]:
    return {
        f"{name}/slo": Metric.of([result.slo], "share", n),
        f"{name}/goodput": Metric.of([result.goodput], "1/s", n),
        **{
            f"{name}/queue_p{share}": Metric.of([percentile(result.queue, share / 100)], "ms", n)
            for share in (50, 95, 99)
        },
        f"{name}/fairness": Metric.of([result.fairness], "share", n),
    }
