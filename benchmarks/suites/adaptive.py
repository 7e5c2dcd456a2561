"""How close `adaptive` comes to the best static policy, cell by cell."""

from __future__ import annotations

from benchmarks.metric import Metric
from benchmarks.suites.policy import all_streams
from sage_llm_ops.kv_policy.eviction import eviction_policy

WORKLOAD = (
    "Every recorded stream that SAGE_LLM_OPS_DATA or ../shared/data has (two Mooncake, six LIRS with "
    "reference results; _unseen: the six LIRS traces that nothing was tuned on; else one synthetic) at "
    "1, 5, 10 and 30 % of its blocks. behind: adaptive's miss ratio over the smallest of fifo, lru, "
    "lfu, arc and s3fifo, a sample a cell; within_2pct: share of cells at most 1.02 behind. miss: "
    "mean miss ratio. behind_<stream>_<share>: the cells beyond 1.02."
)
SIZES = {"ci": None, "full": None}
SHARES = (0.01, 0.05, 0.10, 0.30)
STATIC = ("fifo", "lru", "lfu", "arc", "s3fifo")


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(limit: int | None) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for group, streams in all_streams(limit).items():
        misses: dict[str, list[float]] = {name: [] for name in (*STATIC, "adaptive")}
        behind: dict[str, float] = {}
        for stream in streams:
            for share in SHARES:
                capacity = max(1, int(share * stream.unique))
                for name, found in misses.items():
                    hits = eviction_policy(name, capacity).replay(stream.keys)
                    found.append(1.0 - hits / len(stream.keys))
                best = min(misses[name][-1] for name in STATIC)
                behind[f"{stream.name}_{share:g}"] = misses["adaptive"][-1] / best
        cells = list(behind.values())
        within = sum(ratio <= 1.02 for ratio in cells) / len(cells)
        metrics[f"within_2pct{group}"] = Metric.of([within], "share", len(cells))
        metrics[f"behind{group}"] = Metric.of(cells, "ratio")
        for name, found in misses.items():
            metrics[f"miss_{name}{group}"] = Metric.of(
                [sum(found) / len(found)], "ratio", len(found)
            )
        for cell, ratio in behind.items():
            if ratio > 1.02:
                metrics[f"behind_{cell}"] = Metric.of([ratio], "ratio")
    return metrics
