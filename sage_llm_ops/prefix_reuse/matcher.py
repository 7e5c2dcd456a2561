"""Does what was found by hashes have the tokens that were asked for?"""

from __future__ import annotations

from dataclasses import replace
from typing import final

from sage_llm_ops.prefix_reuse.hashing import Tokens
from sage_llm_ops.prefix_reuse.index import PrefixReuseIndex
from sage_llm_ops.types.kv import Tier
from sage_llm_ops.types.prefix import PrefixHit


@final
class PrefixMatcher:
    """Compares tokens. A lookup from tokens has done so already; one from hashes has not."""

    def __init__(self, index: PrefixReuseIndex) -> None:
        self._index = index
        self.verified = 0
        """Hits that were looked at."""
        self.conflicts = 0
        """Hits of which some part had other tokens: a collision of keys, caught."""

    def verify(self, hit: PrefixHit, tokens: Tokens) -> PrefixHit:
        """The hit cut to what truly has these tokens. Nothing of it where the prefix is gone since:
        then nobody can tell any more."""
        self.verified += 1
        good = self._index.verify(hit, tokens)
        sure = min(good, hit.by_tier.get(Tier.NVME, good)) / good if good else 0.0
        if good == hit.matched_length:
            return replace(hit, confidence=sure)
        self.conflicts += self._index.knows(hit)
        return replace(
            hit,
            matched_length=good,
            remaining_tokens=hit.remaining_tokens + hit.matched_length - good,
            confidence=sure,
            by_tier={tier: min(good, tokens) for tier, tokens in hit.by_tier.items()},
            entry=None,
        )
