"""How close `adaptive` comes to the best static policy, cell by cell."""

from __future__ import annotations

from benchmarks.block_workloads import generated, tuned, unseen
from benchmarks.metric import Metric
from sage_llm_ops.kv_policy.eviction import POLICIES, eviction_policy
from sage_llm_ops.pipeline.block_streams import BlockStream

WORKLOAD = (
    "Streams at 1, 5, 10 and 30 % of their blocks, in three groups: every recorded one that has "
    "reference results and that settings were chosen on (two Mooncake, six LIRS, where "
    "SAGE_LLM_OPS_DATA or ../shared/data has them, else one synthetic); _unseen: the six LIRS traces "
    "that none were chosen on; _generated: a Zipf law, a shifting one, one with scans, two loops. behind: "
    "adaptive's miss ratio over the smallest of fifo, lru, lfu, arc and s3fifo, a sample a cell; "
    "within_2pct: share of cells at most 1.02 behind. miss: mean miss ratio. behind_<stream>_<share>: "
    "the cells beyond 1.02."
)
SIZES = {"ci": 140_000, "full": None}
"""Of the recorded ones `ci` cuts only the loop, which repeats itself."""
GENERATED = 30_000
SHARES = (0.01, 0.05, 0.10, 0.30)
FIVE = ("fifo", "lru", "lfu", "arc", "s3fifo")


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(limit: int | None) -> dict[str, Metric]:
    groups = {
        "": tuned(limit),
        "_unseen": unseen(limit),
        "_generated": generated(min(limit or GENERATED, GENERATED)),
    }
    metrics: dict[str, Metric] = {}
    for group, streams in groups.items():
        if streams:
            metrics.update(_judged(group, streams))
    return metrics


def _judged(group: str, streams: list[BlockStream]) -> dict[str, Metric]:
    misses: dict[str, list[float]] = {name: [] for name in POLICIES}
    behind: dict[str, float] = {}
    for stream in streams:
        for share in SHARES:
            capacity = max(1, int(share * stream.unique))
            for name, found in misses.items():
                hits = eviction_policy(name, capacity).replay(stream.keys)
                found.append(1.0 - hits / len(stream.keys))
            best = min(misses[name][-1] for name in FIVE)
            behind[f"{stream.name}_{share:g}"] = misses["adaptive"][-1] / best
    cells = list(behind.values())
    within = sum(ratio <= 1.02 for ratio in cells) / len(cells)
    metrics = {
        f"within_2pct{group}": Metric.of([within], "share", len(cells)),
        f"behind{group}": Metric.of(cells, "ratio"),
    }
    for name, found in misses.items():
        metrics[f"miss_{name}{group}"] = Metric.of([sum(found) / len(found)], "ratio", len(found))
    for cell, ratio in behind.items():
        if ratio > 1.02:
            metrics[f"behind_{cell}"] = Metric.of([ratio], "ratio")
    return metrics
