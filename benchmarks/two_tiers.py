"""One engine's cache over a larger, slower one, request by request: what decisions are worth.

A model to compare decisions with, not a runtime. Requests come with their times; each pays for what
it fetches (waiting for the link included) and for what it computes. Blocks that leave the upper
tier may be written below, over the same link, and are then in nobody's way but the link's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from sage_llm_ops.kv_policy.context import PolicyContext
from sage_llm_ops.kv_policy.cost_benefit import Candidate, CostBenefitModel
from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.migration import MigrationPolicy
from sage_llm_ops.types.errors import UnknownName
from sage_llm_ops.types.kv import BlockKey

STRATEGIES = ("recompute", "always", "planned")
KEEPS_S = 600.0
"""How long the lower tier keeps an unused block, until it was seen."""
LEARN = 0.02


@dataclass(slots=True)
class Spent:
    """Sums over the requests, in milliseconds and blocks."""

    prefill_ms: float = 0.0
    fetch_ms: float = 0.0
    computed: int = 0
    fetched: int = 0
    written: int = 0

    @property
    def total_ms(self) -> float:
        return self.prefill_ms + self.fetch_ms


@final
class TwoTiers:
    """`recompute`: no lower tier. `always`: write what leaves, fetch what is there. `planned`: both
    as the cost-benefit model says."""

    def __init__(
        self, upper: EvictionPolicy, lower: EvictionPolicy, model: CostBenefitModel, strategy: str
    ) -> None:
        if strategy not in STRATEGIES:
            raise UnknownName("strategy of two tiers", strategy, STRATEGIES)
        self.upper, self.lower, self.model, self.strategy = upper, lower, model, strategy
        self.policy = MigrationPolicy(model)
        self.spent = Spent()
        self._depths: dict[BlockKey, int] = {}
        self._parents: dict[BlockKey, BlockKey] = {}
        self._values: dict[BlockKey, float] = {}
        """Of blocks below: what was expected of each, and of those that continue it."""
        self._carried: dict[BlockKey, float] = {}
        self._keeps_s = KEEPS_S

    def request(self, now_s: float, blocks: Sequence[BlockKey], tokens: int) -> float:
        """Milliseconds until its whole prompt is in the cache."""
        now_ms, model, size = now_s * 1e3, self.model, self.model.block_tokens
        here = _leading(self.upper, blocks)
        below = _leading(self.lower, blocks[here:]) if self.strategy != "recompute" else 0
        for key in blocks[here : here + below]:
            self.lower.on_hit(key)  # wanted, fetched or not: below stays what it is under `always`
        self.policy.asked(blocks[here:])
        cached = min(tokens, here * size)
        if self.strategy == "planned" and not model.fetch(cached, below, tokens, now_ms):
            below = 0
        spent = self.spent
        fetch = model.fetch_ms(below, now_ms)
        if below:
            model.link.send(now_ms, below * model.block_bytes)
        prefill = model.prefill.rest_ms(min(tokens, (here + below) * size), tokens)
        spent.fetch_ms += fetch
        spent.prefill_ms += prefill
        spent.fetched += below
        spent.computed += len(blocks) - here - below
        for place, key in enumerate(blocks):
            model.predictor.note(key, now_s, tail=place == len(blocks) - 1)
            self._depths[key] = place * size
            if place:
                self._parents[key] = blocks[place - 1]
        self._offload(self._fill(blocks, now_s), now_ms)
        return fetch + prefill

    def _fill(self, blocks: Sequence[BlockKey], now_s: float) -> list[BlockKey]:
        """The blocks of a request come in; those that went."""
        upper, context = self.upper, PolicyContext(now=now_s)
        gone: list[BlockKey] = []
        walked: list[BlockKey] = []
        for key in blocks:
            if key in upper:
                upper.on_hit(key)
            else:
                if len(upper) >= upper.capacity:
                    victims = upper.select_victims(1, context, incoming=key).victims
                    if not victims:
                        break
                    gone += victims
                upper.on_insert(key, parent=walked[-1] if walked else None)
            upper.pin(key)
            walked.append(key)
        for key in walked:
            upper.unpin(key)
        return gone

    def _offload(self, gone: Sequence[BlockKey], now_ms: float) -> None:
        fresh = [key for key in gone if key not in self.lower]
        if self.strategy == "recompute" or not fresh:
            return
        # They left a child before its parent, and go below in that order: a block is priced with what
        # it makes reachable.
        for key in fresh:
            if self.strategy == "planned" and not self._worth(key, now_ms):
                continue
            if len(self.lower) >= self.lower.capacity:
                for victim in self.lower.select_victims(1, incoming=key).victims:
                    self._displaced(victim, now_ms)
            self.lower.on_insert(key)
            self.model.link.send(now_ms, self.model.block_bytes)
            self.spent.written += 1

    def _worth(self, key: BlockKey, now_ms: float) -> bool:
        candidate = Candidate(key, self._depths[key], carries_ms=self._carried.get(key, 0.0))
        decision = self.policy.plan([candidate], now_ms, self._keeps_s)
        if decision.plan is None:
            return False
        value = decision.net_benefit
        self._values[key] = value
        parent = self._parents.get(key)
        if parent is not None:
            self._carried[parent] = self._carried.get(parent, 0.0) + value
        return True

    def _displaced(self, victim: BlockKey, now_ms: float) -> None:
        """Learn how long the lower tier keeps what nobody uses."""
        value, parent = self._values.pop(victim, 0.0), self._parents.get(victim)
        if value and parent is not None:
            self._carried[parent] = max(0.0, self._carried[parent] - value)
        use = self.model.predictor.history.get(victim)
        if use is not None:
            self._keeps_s += LEARN * (now_ms / 1e3 - use.at - self._keeps_s)


def _leading(policy: EvictionPolicy, blocks: Sequence[BlockKey]) -> int:
    for count, key in enumerate(blocks):
        if key not in policy:
            return count
    return len(blocks)
