"""Predicted lifetimes of blocks: how wrong, how calibrated, and what they are worth."""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from benchmarks.block_workloads import paced, requests
from benchmarks.metric import Metric
from sage_llm_ops.kv_policy import PolicyContext
from sage_llm_ops.kv_policy.eviction import EvictionPolicy, Rules, eviction_policy
from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.kv_policy.lifetime import Lifetime, LifetimePredictor
from sage_llm_ops.pipeline.block_streams import BlockStream

WORKLOAD = (
    "Mooncake's synthetic and conversation traces (where SAGE_LLM_OPS_DATA or ../shared/data has "
    "them, else a synthetic one) in their own time, and _lirs: the twelve LIRS traces (ci: their first "
    "10,000 accesses), each spread over 1,000 s, a sample a trace. Each prediction is made from the past "
    "alone and judged if its time is over before the trace ends. calibration: mean distance between "
    "predicted and observed share of blocks used again within 60 s, over ten bins; resolution: share of "
    "the outcome's variance that the predictions explain. Of reuses within 300 s: covered, those that "
    "came within the predicted TTL (0.9 is predicted, of reuses at ages seen so far: early in a trace "
    "later ones are unknown); error, the median of |log2(reuse time / predicted median)|; error_none, "
    "the same with the median of all reuse times so far, for every block. hits_gain: hits of an LRU pool "
    "with closed prefixes whose blocks expire as predicted, over the same pool without; a sample is a "
    "trace and a pool of 1 or 10 % of the blocks (full: also 5 and 30)."
)
SIZES = {"ci": ((0.01, 0.10), 10_000), "full": ((0.01, 0.05, 0.10, 0.30), None)}
PACED_S = 1000.0
HORIZON_S, REACH_S = 60.0, 300.0
SOONEST_S = 0.05
BINS = 10
LEARN = 0.01


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(shares: tuple[float, ...], limit: int | None) -> dict[str, Metric]:
    groups = {name: [stream] for name, stream in requests(limit).items()}
    groups["lirs"] = paced(PACED_S, limit)
    metrics: dict[str, Metric] = {}
    for name, streams in groups.items():
        found: dict[str, list[float]] = {}
        for stream in streams:
            for key, value in quality(stream).items():
                found.setdefault(key, []).append(value)
            for share in shares:
                capacity = max(1, int(share * stream.unique))
                plain, hinted = (pool_hits(stream, capacity, hints) for hints in (False, True))
                if plain:
                    found.setdefault("hits_gain", []).append(hinted / plain)
        for key, values in found.items():
            unit = {"hits_gain": "ratio"}.get(key, "log2" if "error" in key else "share")
            metrics[f"{key}_{name}"] = Metric.of(values, unit)
    return metrics


@dataclass(slots=True)
class _Bin:
    """Predictions of about one probability."""

    count: int = 0
    predicted: float = 0.0
    came: int = 0


class _Open(NamedTuple):
    """A prediction, and when it was made."""

    at: float
    chance: float | None
    """Of a reuse within HORIZON_S."""
    lifetime: Lifetime
    """Within REACH_S."""
    usual: float | None
    """What one would say without a predictor: the median reuse time of all blocks so far."""


def quality(stream: BlockStream) -> dict[str, float]:
    """Predictions made at each use and held against the next. Only those count whose time is over
    before the trace ends: of later ones nobody knows what came. What nothing was measured of is left
    out."""
    predictor = LifetimePredictor(AccessHistory(1 << 20))
    waiting: dict[int, _Open] = {}
    bins = [_Bin() for _ in range(BINS)]
    errors: list[float] = []
    usual_errors: list[float] = []
    seen: list[float] = []
    covered = reuses = 0
    end = stream.at[-1]

    def judge(made: _Open, gap: float) -> None:
        nonlocal covered, reuses
        if made.chance is not None and made.at <= end - HORIZON_S:
            cell = bins[min(BINS - 1, int(made.chance * BINS))]
            cell.count += 1
            cell.predicted += made.chance
            cell.came += gap <= HORIZON_S
        if gap > REACH_S or made.at > end - REACH_S:
            return
        ttl, half = made.lifetime.ttl_s, made.lifetime.median_s
        if ttl:
            reuses += 1
            covered += gap <= ttl
        if half and made.usual:
            errors.append(abs(math.log2(gap / half)))
            usual_errors.append(abs(math.log2(gap / made.usual)))

    for at, blocks in zip(stream.at, stream.requests, strict=True):
        for place, key in enumerate(blocks):
            made = waiting.get(key)
            if made is not None:
                gap = max(at - made.at, SOONEST_S)
                judge(made, gap)
                if gap <= REACH_S:
                    insort(seen, gap)
            predictor.note(key, at, tail=stream.chained and place == len(blocks) - 1)
            use = predictor.history.get(key)
            assert use is not None
            waiting[key] = _Open(
                at,
                predictor.reuse_within(use, at, HORIZON_S),
                predictor.predict_ttl(key, at, REACH_S),
                seen[len(seen) // 2] if seen else None,
            )
    for made in waiting.values():
        judge(made, math.inf)
    measured: dict[str, float] = {}
    judged = sum(cell.count for cell in bins)
    came = sum(cell.came for cell in bins)
    if judged:
        measured["calibration"] = sum(abs(c.predicted - c.came) for c in bins) / judged
    if 0 < came < judged:
        share = came / judged
        spread = sum(c.count * (c.came / c.count - share) ** 2 for c in bins if c.count)
        measured["resolution"] = spread / judged / (share * (1.0 - share))
    if reuses:
        measured["covered"] = covered / reuses
    if errors:
        measured["error"], measured["error_none"] = median(errors), median(usual_errors)
    return measured


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
            predictor.note(key, at, tail=stream.chained and place == len(blocks) - 1)
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
