"""Predicted lifetimes of blocks: how wrong, how calibrated, and what they are worth."""

from __future__ import annotations

import math
import os
from pathlib import Path

from benchmarks.metric import Metric
from benchmarks.workloads import ROOT
from sage_llm_ops.kv_policy import PolicyContext
from sage_llm_ops.kv_policy.eviction import EvictionPolicy, Rules, eviction_policy
from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.kv_policy.lifetime import LifetimePredictor
from sage_llm_ops.pipeline.block_streams import BlockStream, read_blocks, stream_of
from sage_llm_ops.pipeline.synthetic import generate_trace

WORKLOAD = (
    "Mooncake's synthetic and conversation traces (where SAGE_LLM_OPS_DATA or ../shared/data has "
    "them, else a synthetic one), in their own time; each prediction is made from the past alone. "
    "calibration: mean distance between predicted and observed share of blocks used again within "
    "60 s, over ten bins; resolution: share of the outcome's variance that the predictions explain. "
    "covered: reuses that came within the predicted TTL (0.9 is predicted, of reuses at ages seen so "
    "far: early in a trace later ones are unknown). error: median of |log2(reuse time / predicted "
    "median)|, error_none with one running mean for all. hits_gain: hits of an LRU pool with closed "
    "prefixes whose blocks expire as predicted, over the same pool without; a sample is a pool "
    "of 1, 5, 10 or 30 % of the blocks."
)
SIZES = {"ci": ((0.01, 0.10), None), "full": ((0.01, 0.05, 0.10, 0.30), None)}
TRACES = {
    "synthetic": "mooncake_synthetic_trace.jsonl.zst",
    "conversation": "mooncake_conversation_first30min.jsonl.zst",
}
HORIZON_S = 60.0
BINS = 10
LEARN = 0.01


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(shares: tuple[float, ...], limit: int | None) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name, stream in streams(limit).items():
        for key, value in quality(stream).items():
            metrics[f"{key}_{name}"] = Metric.of([value], "share" if "error" not in key else "log2")
        gains = []
        for share in shares:
            capacity = max(1, int(share * stream.unique))
            plain, hinted = (pool_hits(stream, capacity, hints) for hints in (False, True))
            gains.append(hinted / max(1, plain))
        metrics[f"hits_gain_{name}"] = Metric.of(gains, "ratio")
    return metrics


def streams(limit: int | None) -> dict[str, BlockStream]:
    """By the name that metrics carry."""
    data = Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")
    if all((data / file).is_file() for file in TRACES.values()):
        return {name: read_blocks(data / file, limit) for name, file in TRACES.items()}
    return {"made_up": stream_of("made up", generate_trace(limit or 2000, seed=1))}


def quality(stream: BlockStream) -> dict[str, float]:
    """Predictions made at each use and held against the next; those whose time is not over at the
    end of the trace are left out of the calibration."""
    predictor = LifetimePredictor(AccessHistory(1 << 20))
    open_: dict[int, tuple[float, float | None, float | None, float | None]] = {}
    bins: list[list[float]] = [[0.0, 0.0, 0.0] for _ in range(BINS)]
    errors: list[float] = []
    flat_errors: list[float] = []
    gaps = 0.0, 0
    covered = reuses = judged = used = 0
    end = stream.at[-1]

    def judge(chance: float | None, hit: bool) -> None:
        nonlocal judged, used
        if chance is None:
            return
        cell = bins[min(BINS - 1, int(chance * BINS))]
        cell[0] += 1
        cell[1] += chance
        cell[2] += hit
        judged += 1
        used += hit

    for at, blocks in zip(stream.at, stream.requests, strict=True):
        for place, key in enumerate(blocks):
            before = open_.get(key)
            if before is not None:
                gap = max(at - before[0], 0.05)
                if before[0] <= end - HORIZON_S:
                    judge(before[1], gap <= HORIZON_S)
                if before[2] is not None:
                    reuses += 1
                    covered += gap <= before[2]
                if before[3]:
                    errors.append(abs(math.log2(gap / before[3])))
                    total, count = gaps
                    if count:
                        flat_errors.append(abs(math.log2(gap) - total / count))
                gaps = gaps[0] + math.log2(gap), gaps[1] + 1
            predictor.note(key, at, tail=place == len(blocks) - 1)
            use = predictor.history.get(key)
            assert use is not None
            chance = predictor.reuse_within(use, at, HORIZON_S)
            lifetime = predictor.predict_ttl(key, at)
            ttl = lifetime.ttl_s if lifetime.ttl_s else None
            open_[key] = (at, chance, ttl, lifetime.median_s)
    for at, chance, _, _ in open_.values():
        if at <= end - HORIZON_S:
            judge(chance, False)
    share = used / max(1, judged)
    return {
        "calibration": sum(abs(c[1] - c[2]) for c in bins) / max(1, judged),
        "resolution": sum(c[0] * (c[2] / c[0] - share) ** 2 for c in bins if c[0])
        / max(1, judged)
        / max(1e-9, share * (1.0 - share)),
        "covered": covered / max(1, reuses),
        "error": _median(errors),
        "error_none": _median(flat_errors),
    }


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def pool_hits(stream: BlockStream, capacity: int, hints: bool) -> int:
    """Hits of an LRU pool whose blocks may be told when to expire."""
    policy = eviction_policy("lru", capacity, Rules(closed=True))
    predictor = LifetimePredictor(AccessHistory())
    hits, keeps_s = 0, HORIZON_S
    for at, blocks in zip(stream.at, stream.requests, strict=True):
        walked: list[int] = []
        for place, key in enumerate(blocks):
            if key in policy:
                policy.on_hit(key)
                hits += 1
            else:
                if len(policy) >= capacity:
                    gone, keeps_s = _room(policy, predictor, at, keeps_s, key)
                    if not gone:
                        break
                policy.on_insert(key, parent=walked[-1] if walked else None)
            policy.pin(key)
            walked.append(key)
            predictor.note(key, at, tail=place == len(blocks) - 1)
            ttl = predictor.predict_ttl(key, at, keeps_s).ttl_s if hints else None
            policy.expire(key, at if ttl == 0.0 else None)
        for key in walked:
            policy.unpin(key)
    return hits


def _room(
    policy: EvictionPolicy, predictor: LifetimePredictor, at: float, keeps_s: float, key: int
) -> tuple[bool, float]:
    """One block goes; how long the pool keeps what nobody uses is learnt from those unhinted."""
    decision = policy.select_victims(1, PolicyContext(now=at), incoming=key)
    if not decision.victims:
        return False, keeps_s
    use = predictor.history.get(decision.victims[0])
    if use is not None and "expired" not in decision.reason:
        keeps_s += LEARN * (at - use.at - keeps_s)
    return True, keeps_s
