"""Which of the blocks that leave a tier are worth keeping one tier below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import final

from sage_llm_ops.kv_policy.context import MigrationDecision
from sage_llm_ops.kv_policy.cost_benefit import Candidate, CostBenefitModel
from sage_llm_ops.types.kv import MigrationPlan, Tier


@final
class MigrationPolicy:
    """Moves what is worth more than its move costs, best first. Keeps no state of its own."""

    def __init__(self, model: CostBenefitModel, src: Tier = Tier.GPU, dst: Tier = Tier.CPU) -> None:
        self.model, self.src, self.dst = model, src, dst

    def plan(
        self, candidates: Sequence[Candidate], now_ms: float, keeps_s: float
    ) -> MigrationDecision:
        """Each block is priced behind those that are chosen before it: a plan contends with itself."""
        model = self.model
        priced = [(model.evaluate_migration(c, now_ms, keeps_s), c) for c in candidates]
        priced.sort(key=lambda pair: -pair[0].net_ms)
        chosen: list[Candidate] = []
        net = 0.0
        for worth, candidate in priced:
            worth = replace(worth, cost_ms=model.cost_ms(now_ms, queued=len(chosen)))
            if worth.net_ms <= 0.0:
                break
            chosen.append(candidate)
            net += worth.net_ms
        if not chosen:
            return MigrationDecision(None, 0.0, f"none of {len(candidates)} blocks is worth moving")
        plan = MigrationPlan(self.src, self.dst, tuple(c.key for c in chosen))
        return MigrationDecision(plan, net, f"{len(chosen)} of {len(candidates)} blocks")
