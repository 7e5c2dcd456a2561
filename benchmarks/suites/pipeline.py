"""What the control plane itself costs: `LivePipeline.submit()` to the resolved handle."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import closed_loop
from benchmarks.metric import Metric, percentile
from benchmarks.open_loop import Load, added_ms

WORKLOAD = """\
The serving graph live in one process, ledger to a file, prompts of 1,000 tokens, simulated inline
workers; four events a request enter the graph (Arrive, NodeAccepted, FirstToken, NodeDone).
closed_loop_rps: 4 instances that answer at once with one token, 256 requests in flight, submitted
and awaited by one thread.
open_loop_added_*: Poisson arrivals at 2,000/s for a few seconds into 4 instances whose every step
takes 3 ms, 10 tokens each, all streamed through `handle.stream()` in the one event loop that also
submits (20,000 tokens/s). Added = submit to the end of the stream, less the engine's own service
time: from its Accepted to the moment its last step was due. What its thread is late, because the
plane's threads held the GIL, is therefore added, not service (steps that a submit to the same
engine brings forward excepted). n counts requests; value, min and max are over runs.
rss_growth_mb: closed loop; resident memory after n requests less that after the warm-up. Not
extrapolated: n is 300,000 in the preset `full` and smaller in `ci`.
cost_ratio_64_vs_2: closed loop; CPU time of the process for a request among 64 instances / among 2,
with the same slots in total and the same number in flight, interleaved."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each; `repeats` of everything but the memory, which is one long run."""

    repeats: int
    closed: int
    ratio: int
    growth: int
    warm_up: int
    load: Load


SIZES = {
    "ci": Sizes(5, 5_000, 3_000, 30_000, 10_000, Load(rate=2000, seconds=2.0)),
    "full": Sizes(15, 20_000, 10_000, 300_000, 30_000, Load(rate=2000, seconds=5.0)),
}


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(sizes: Sizes) -> dict[str, Metric]:
    """All metrics of the suite."""
    growth = closed_loop.growth_mb(sizes.growth, sizes.warm_up)
    rates = closed_loop.rates(sizes.repeats, sizes.closed)
    runs = [added_ms(sizes.load, seed) for seed in range(sizes.repeats)]
    count = sum(len(run) for run in runs)
    return {
        "closed_loop_rps": Metric.of(rates, "requests/s"),
        **{
            f"open_loop_added_p{share}_ms": Metric.of(
                [percentile(run, share / 100) for run in runs], "ms", count
            )
            for share in (50, 99)
        },
        "rss_growth_mb": Metric.of([growth], "MiB", sizes.growth),
        "cost_ratio_64_vs_2": Metric.of(
            closed_loop.cost_ratios(sizes.repeats, sizes.ratio), "ratio"
        ),
    }
