"""Which of the blocks that leave a tier are worth keeping one tier below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import final

from sage_llm_ops.kv_policy.context import MigrationDecision
from sage_llm_ops.kv_policy.cost_benefit import Candidate, CostBenefitModel
from sage_llm_ops.types.errors import ConfigError, IntegrityError
from sage_llm_ops.types.kv import BlockKey, MigrationPlan, Tier

REMEMBERED = 1 << 16


@final
class MigrationPolicy:
    """Moves what is worth more than its move costs, best first, and learns from what it left.

    Reuse is foreseen from ages that were seen, and early in a workload few were: what comes back late
    looks dead. So the policy remembers the blocks that it did not move and counts those that were
    asked for all the same. That share, `doubt`, is the least it believes of any block. It starts at 1:
    a link that is never contended is given everything, as without a policy, and only where moves
    cost something are blocks left, and by them it is learnt what leaving them costs.
    """

    def __init__(
        self,
        model: CostBenefitModel,
        src: Tier = Tier.GPU,
        dst: Tier = Tier.CPU,
        *,
        remembered: int = REMEMBERED,
    ) -> None:
        if remembered < 1:
            raise ConfigError(f"migration policy that remembers {remembered} blocks; at least 1")
        self.model, self.src, self.dst = model, src, dst
        self.remembered = remembered
        self._left: dict[BlockKey, None] = {}
        """Not moved, the longest ago first."""
        self._declined = self._regretted = 0

    @property
    def doubt(self) -> float:
        """The share of blocks that were left and asked for again."""
        return (1 + self._regretted) / (1 + self._declined)

    def asked(self, missing: Iterable[BlockKey]) -> None:
        """A request wanted these, and the upper tier did not have them."""
        for key in missing:
            if key in self._left:
                del self._left[key]
                self._regretted += 1

    def plan(
        self, candidates: Sequence[Candidate], now_ms: float, keeps_s: float
    ) -> MigrationDecision:
        """Each block is priced behind those that are chosen before it: a plan contends with itself."""
        model, doubt = self.model, self.doubt
        priced = [
            (
                model.evaluate_migration(c, now_ms, keeps_s, doubt),
                model.evaluate_migration(c, now_ms, keeps_s).net_ms,
                c,
            )
            for c in candidates
        ]
        # Doubt admits; among those that it makes equal, what is believed ranks.
        priced.sort(key=lambda row: (-row[0].net_ms, -row[1]))
        chosen: list[Candidate] = []
        net = 0.0
        for worth, _, candidate in priced:
            worth = replace(worth, cost_ms=model.cost_ms(now_ms, queued=len(chosen)))
            if worth.net_ms <= 0.0:
                break
            chosen.append(candidate)
            net += worth.net_ms
        for *_, candidate in priced[len(chosen) :]:
            self._leave(candidate.key)
        if not chosen:
            return MigrationDecision(None, 0.0, f"none of {len(candidates)} blocks is worth moving")
        plan = MigrationPlan(self.src, self.dst, tuple(c.key for c in chosen))
        return MigrationDecision(plan, net, f"{len(chosen)} of {len(candidates)} blocks")

    def check_integrity(self) -> None:
        """Raises `IntegrityError`."""
        waiting = len(self._left)
        if not waiting <= self._declined - self._regretted or waiting > self.remembered:
            raise IntegrityError(
                f"migration: {waiting} blocks left of {self._declined}, {self._regretted} of them "
                f"asked for, room for {self.remembered}"
            )

    def _leave(self, key: BlockKey) -> None:
        self._declined += 1
        self._left.pop(key, None)
        self._left[key] = None
        if len(self._left) > self.remembered:
            del self._left[next(iter(self._left))]
