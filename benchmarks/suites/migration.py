"""What a second tier is worth: recompute only, always migrate, or as the prices say."""

from __future__ import annotations

from benchmarks.block_workloads import requests
from benchmarks.metric import Metric
from benchmarks.two_tiers import STRATEGIES, TwoTiers
from sage_llm_ops.kv_policy.cost_benefit import CostBenefitModel, PrefillCost
from sage_llm_ops.kv_policy.eviction import Rules, eviction_policy
from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.kv_policy.lifetime import LifetimePredictor
from sage_llm_ops.kv_policy.links import Link
from sage_llm_ops.pipeline.block_streams import BlockStream

WORKLOAD = (
    "Mooncake's synthetic and conversation traces (else a synthetic one) over one engine whose GPU "
    "holds 5 % of the blocks (LRU, closed prefixes) and a host tier of 50 %, blocks of 512 tokens of "
    "128 KiB KV (Llama-3-8B), one link shared by both directions (metrics by its GB/s). A request "
    "pays for its fetch, waiting for the link included, and for the prefill of the rest, by "
    "16.5 + 0.01518 n + 4.21e-7 n^2 ms (ai-dynamo's mocker). saved: milliseconds a request, planned "
    "against the other; above 0 planned is better."
)
SIZES = {"ci": ((5.0, 20.0, 80.0), 2000), "full": ((2.5, 5.0, 10.0, 20.0, 40.0, 80.0), None)}
PREFILL = PrefillCost(16.50142, 1.518344e-2, 4.209989e-7)
BLOCK_TOKENS, BLOCK_BYTES = 512, 512 * 131_072
UPPER, LOWER = 0.05, 0.5


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(links: tuple[float, ...], limit: int | None) -> dict[str, Metric]:
    """One run for each trace, link and strategy: nothing in it is random."""
    metrics: dict[str, Metric] = {}
    for name, stream in requests(limit).items():
        for link in links:
            spent = {strategy: mean_ms(stream, link, strategy) for strategy in STRATEGIES}
            tail = f"{name}_{link:g}"
            metrics[f"planned_ms_{tail}"] = Metric.of([spent["planned"]], "ms")
            for other in ("recompute", "always"):
                saved = spent[other] - spent["planned"]
                metrics[f"saved_vs_{other}_{tail}"] = Metric.of([saved], "ms")
    return metrics


def mean_ms(stream: BlockStream, gigabytes_per_s: float, strategy: str) -> float:
    """Milliseconds a request until its prompt is in the cache."""
    tiers = two_tiers(stream, gigabytes_per_s, strategy)
    for at, blocks in zip(stream.at, stream.requests, strict=True):
        tiers.request(at, blocks, len(blocks) * BLOCK_TOKENS)
    return tiers.spent.total_ms / len(stream.requests)


def two_tiers(stream: BlockStream, gigabytes_per_s: float, strategy: str) -> TwoTiers:
    """Empty, of the sizes that the workload names."""
    model = CostBenefitModel(
        LifetimePredictor(AccessHistory()),
        Link(gigabytes_per_s),
        PREFILL,
        block_tokens=BLOCK_TOKENS,
        block_bytes=BLOCK_BYTES,
    )
    upper, lower = (max(1, int(share * stream.unique)) for share in (UPPER, LOWER))
    return TwoTiers(
        eviction_policy("lru", upper, Rules(closed=True)),
        eviction_policy("lru", lower),
        model,
        strategy,
    )
