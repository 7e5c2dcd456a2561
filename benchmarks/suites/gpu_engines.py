"""Both engines on a GPU."""

from __future__ import annotations

from benchmarks.gpu_checks import ENGINES, card, prompts_of, reference, throughputs, why_not
from benchmarks.metric import Metric, percentile

WORKLOAD = """\
Needs an NVIDIA GPU; engines that are not installed are left out by name. For each engine, float16,
as the one worker of a control plane: ENGINE_greedy_share, the part of 8 prompts whose first 16 greedy
tokens are those of transformers; ENGINE_cached_tokens, prompt tokens from the cache when a prompt
of 256 comes again; ENGINE_usage_after_cancel, the part of the KV cache in use after 128 running
requests were cancelled; ENGINE_memory_mb, what it takes of the card; ENGINE_throughput_ratio,
seconds of the engine alone / through the plane for 128 prompts of 256 tokens and 128 tokens each;
ENGINE_aa_p10, 10th percentile of alone / alone again. n counts rounds."""

SIZES = {"ci": 3, "full": 10}


def run(preset: str) -> dict[str, Metric]:
    missing = {engine: why_not(engine) for engine in ENGINES}
    if all(missing.values()):
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in missing.items()))
    prompts = prompts_of(0)[:8]
    expected = reference(prompts, 16)
    found: dict[str, Metric] = {}
    for engine, why in missing.items():
        if why:
            print(f"left out: {engine}: {why}")
            continue
        for name, metric in _measure(engine, prompts, expected, SIZES[preset]).items():
            found[f"{engine.replace('-', '_')}_{name}"] = metric
    return found


def _measure(
    engine: str, prompts: list[list[int]], expected: list[list[int]], rounds: int
) -> dict[str, Metric]:
    with card(engine) as plane:
        said = [list(result.token_ids) for result in plane.run(prompts, 16)]
        same = sum(ours == theirs for ours, theirs in zip(said, expected, strict=True))
        again = plane.run(prompts[:1], 1)[0]
        usage, memory = plane.usage_after_cancel(), plane.memory_mb()
        times = throughputs(engine, plane, rounds)
    aa = [alone / other for alone, _, other in times]
    return {
        "greedy_share": Metric.of([same / len(prompts)], "share", len(prompts)),
        "cached_tokens": Metric.of([float(again.usage.cached_tokens)], "tokens"),
        "usage_after_cancel": Metric.of([usage], "share"),
        "memory_mb": Metric.of([memory], "MB"),
        "throughput_ratio": Metric.of([alone / ours for alone, ours, _ in times], "ratio"),
        "aa_p10": Metric(percentile(aa, 0.1), "ratio", len(aa), min(aa), max(aa)),
    }
