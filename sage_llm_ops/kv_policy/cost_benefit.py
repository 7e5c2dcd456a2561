"""What moving a block is worth, in milliseconds of somebody's waiting.

benefit   chance that it is asked for while the target tier keeps it, times what a fetch saves
          against computing it again
cost      its time on the link, for each fetch that is expected before the link is idle again:
          that is who has to wait for it
harm      the same benefit of what the target tier gives up for it
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

from sage_llm_ops.kv_policy.lifetime import LifetimePredictor
from sage_llm_ops.kv_policy.links import Link
from sage_llm_ops.types.kv import BlockKey

RATE_MEMORY_MS = 30_000.0
"""Over which the rate of fetches is averaged."""


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """`fixed + linear * n + quadratic * n * n` milliseconds for a prompt of n tokens."""

    fixed_ms: float
    linear_ms: float
    quadratic_ms: float

    def prompt_ms(self, tokens: int) -> float:
        return self.fixed_ms + self.linear_ms * tokens + self.quadratic_ms * tokens * tokens

    def rest_ms(self, cached: int, tokens: int) -> float:
        """The tokens after the cached ones; nothing where there are none."""
        if cached >= tokens:
            return 0.0
        return (
            self.prompt_ms(tokens) - self.linear_ms * cached - self.quadratic_ms * cached * cached
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block that could move, and the one that would have to go for it, if the target is full."""

    key: BlockKey
    depth: int
    """Tokens before it in its prompt."""
    displaces: BlockKey | None = None
    displaced_depth: int = 0
    carries_ms: float = 0.0
    """Expected of blocks that are in the target tier already and useless without this one."""


@dataclass(frozen=True, slots=True)
class Worth:
    """Milliseconds, expected."""

    benefit_ms: float
    cost_ms: float
    harm_ms: float

    @property
    def net_ms(self) -> float:
        return self.benefit_ms - self.cost_ms - self.harm_ms


@final
class CostBenefitModel:
    """Prices moves over one link. Reads the predictor and the link, changes neither; counts fetches."""

    def __init__(
        self,
        predictor: LifetimePredictor,
        link: Link,
        prefill: PrefillCost,
        *,
        block_tokens: int,
        block_bytes: int,
    ) -> None:
        self.predictor, self.link, self.prefill = predictor, link, prefill
        self.block_tokens, self.block_bytes = block_tokens, block_bytes
        self._alone_ms = link.transfer_ms(block_bytes)
        self._fetches = 0.0
        """Wanted lately, discounted by age."""
        self._as_of = 0.0

    def saved_ms(self, depth: int) -> float:
        """By fetching one block rather than computing it; below 0 where computing is faster."""
        end = depth + self.block_tokens
        again = self.prefill.rest_ms(depth, end) - self.prefill.fixed_ms
        return again - self._alone_ms

    def fetch_ms(self, blocks: int, now_ms: float) -> float:
        """Until so many blocks are here, everything before them on the link included."""
        if not blocks:
            return 0.0
        return self.link.wait_ms(now_ms) + self.link.transfer_ms(blocks * self.block_bytes)

    def fetch(self, cached: int, blocks: int, tokens: int, now_ms: float) -> bool:
        """Fetch `blocks` that follow `cached` tokens, or compute them?

        All or none: what a block saves grows with its depth while its transfer does not, so
        stopping in between is never best.
        """
        if not blocks:
            return False
        self._fetches = self._wanted(now_ms) + 1.0
        self._as_of = now_ms
        fetched = min(tokens, cached + blocks * self.block_tokens)
        computed = self.prefill.rest_ms(cached, tokens)
        return self.fetch_ms(blocks, now_ms) + self.prefill.rest_ms(fetched, tokens) < computed

    def evaluate_migration(
        self,
        candidate: Candidate,
        now_ms: float,
        keeps_s: float,
        doubt: float = 0.0,
        *,
        queued: int = 0,
    ) -> Worth:
        """One block moved now to a tier that keeps an unused block for `keeps_s` seconds.

        `doubt`: the least reuse that is believed; `queued`: blocks of the same plan before it.
        """
        benefit = self._expected_ms(candidate.key, candidate.depth, now_ms, keeps_s, doubt)
        benefit += candidate.carries_ms
        harm = 0.0
        if candidate.displaces is not None:
            # What it displaces has little of its time left: none, if it is the next to go anyway.
            harm = self._expected_ms(
                candidate.displaces, candidate.displaced_depth, now_ms, keeps_s
            ) * _share_left(self.predictor, candidate.displaces, now_ms, keeps_s)
        return Worth(benefit, self.cost_ms(now_ms, queued), harm)

    def cost_ms(self, now_ms: float, queued: int = 0) -> float:
        """Of one block behind what the link has to do and `queued` blocks more."""
        idle_in = self.link.wait_ms(now_ms) + (queued + 1) * self._alone_ms
        waiting = self._wanted(now_ms) / RATE_MEMORY_MS * idle_in
        return waiting * self._alone_ms

    def _wanted(self, now_ms: float) -> float:
        return self._fetches * math.exp(min(0.0, self._as_of - now_ms) / RATE_MEMORY_MS)

    def _expected_ms(
        self, key: BlockKey, depth: int, now_ms: float, keeps_s: float, doubt: float = 0.0
    ) -> float:
        saved = max(0.0, self.saved_ms(depth))
        use = self.predictor.history.get(key)
        if use is None:  # of a past so long ago that it is forgotten
            return saved * doubt
        reuse = self.predictor.reuse_within(use, now_ms / 1e3, keeps_s)
        # Nothing known yet: keep what may be kept.
        return saved if reuse is None else saved * max(reuse, doubt)


def _share_left(
    predictor: LifetimePredictor, key: BlockKey, now_ms: float, keeps_s: float
) -> float:
    use = predictor.history.get(key)
    if use is None or keeps_s <= 0.0:
        return 0.0
    return max(0.0, 1.0 - (now_ms / 1e3 - use.at) / keeps_s)
