"""Five times what the fleet can serve: refusals are fast, the work goes on, and it ends well."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import closed_loop
from benchmarks.metric import Metric, percentile
from benchmarks.overloading import REFUSALS, Account, Offered, fill, offer
from benchmarks.workloads import requests, sim_pipeline
from sage_llm_ops.core.defaults import serving

INSTANCES, SLOTS = 4, 16
TOKENS, STEP_MS = 10, 5.0
FACTOR = 5.0
WINDOW_S = 0.5
MAX_PENDING, MAX_IN_FLIGHT, TIMEOUT_S = 128, 256, 2.0
WORKLOAD = f"""\
The serving graph live in one process, ledger to a file, prompts of 1,000 tokens;
{INSTANCES} simulated inline workers of {SLOTS} slots whose every step takes {STEP_MS:g} ms,
{TOKENS} tokens each; admit.max_pending={MAX_PENDING}, max_in_flight={MAX_IN_FLIGHT},
a timeout of {TIMEOUT_S:g} s for all. Peak: completions a second in a closed loop of 1.5 times the
slots. Then {FACTOR:g} times the peak is offered at a fixed rate by one thread, and after that half
of the peak.
refusal_p99_ms: submit to the typed refusal, at the door or by the graph (n counts refusals).
goodput_share: completions a second under overload / peak. rss_growth_mb: resident memory over the
overload, after a warm-up of the same kind. recovery_s: from the end of the overload until the end of
the last half second in which a request was refused, or the median took more than twice that of the
calm; 0 where there is none."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Seconds of each phase."""

    peak: int
    overload_s: float
    after_s: float


SIZES = {"ci": Sizes(4_000, 12.0, 5.0), "full": Sizes(10_000, 30.0, 10.0)}


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(sizes: Sizes) -> dict[str, Metric]:
    """All metrics of the suite."""
    options = {
        "prefix_cache": False,
        "prefill_ms": (0.0, 0.0, 0.0),
        "decode_ms": (0.0, 0.0, STEP_MS),
    }
    feed = requests(TOKENS)
    timed = requests(TOKENS, timeout_s=TIMEOUT_S)
    spec = serving(max_in_flight=MAX_IN_FLIGHT)
    with sim_pipeline(INSTANCES, slots=SLOTS, spec=spec, **options) as pipeline:
        pipeline.configure("admit", "max_pending", MAX_PENDING)
        window = INSTANCES * SLOTS * 3 // 2
        closed_loop.drive(pipeline, feed, sizes.peak // 4, window)
        peak = sizes.peak / closed_loop.drive(pipeline, feed, sizes.peak, window)
        hard, easy = FACTOR * peak, peak / 2
        calm = _latencies(offer(pipeline, timed, easy, Account(int(easy))))
        fill(pipeline, timed, hard, Account(int(hard * min(3.0, sizes.overload_s))))
        account = Account(int(hard * sizes.overload_s))
        before = closed_loop.rss_mb()
        fill(pipeline, timed, hard, account)
        growth = closed_loop.rss_mb() - before
        after = offer(pipeline, timed, easy, Account(int(easy * sizes.after_s)))
    storm = list(account)
    refusals = [(each.over - each.at) * 1e3 for each in storm if each.code in REFUSALS]
    done = sum(not each.code for each in storm)
    spent = max(each.over for each in storm) - min(each.at for each in storm)
    return {
        "refusal_p99_ms": Metric(
            percentile(refusals, 0.99), "ms", len(refusals), min(refusals), max(refusals)
        ),
        "goodput_share": Metric.of([done / spent / peak], "share", done),
        "rss_growth_mb": Metric.of([growth], "MiB", len(storm)),
        "recovery_s": Metric.of([recovery_s(after, 2 * percentile(calm, 0.5))], "s", len(after)),
        "peak_rps": Metric.of([peak], "requests/s", sizes.peak),
    }


def recovery_s(after: list[Offered], limit_s: float) -> float:
    """From the first request on. One slow request among hundreds is the machine's, not the plane's."""
    began, windows = after[0].at, dict[int, list[Offered]]()
    for each in after:
        windows.setdefault(int((each.at - began) / WINDOW_S), []).append(each)
    late = [
        number
        for number, some in windows.items()
        if any(each.code for each in some)
        or percentile([each.over - each.at for each in some], 0.5) > limit_s
    ]
    return (max(late) + 1) * WINDOW_S if late else 0.0


def _latencies(offered: list[Offered]) -> list[float]:
    return [each.over - each.at for each in offered if not each.code]
