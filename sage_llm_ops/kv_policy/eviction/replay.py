"""A recorded workload under one policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.types.kv import BlockKey


@dataclass(slots=True)
class Hits:
    """Counts of a replay; every access counts, from the cold cache on."""

    accesses: int = 0
    hits: int = 0
    prefix_hits: int = 0
    """Hits whose every earlier block in the same request was a hit: what an engine can use."""

    def add(self, hits: Iterable[bool]) -> None:
        """One request's blocks in their order."""
        leading = True
        for hit in hits:
            self.accesses += 1
            self.hits += hit
            leading = leading and hit
            self.prefix_hits += leading

    @property
    def hit_ratio(self) -> float:
        return self.hits / self.accesses if self.accesses else 0.0

    @property
    def prefix_hit_ratio(self) -> float:
        return self.prefix_hits / self.accesses if self.accesses else 0.0


def replay_request(policy: EvictionPolicy, blocks: Sequence[BlockKey], counts: Hits) -> None:
    """One request over a pool that takes every miss."""
    counts.add(map(policy.access, blocks))


def replay_closed(policy: EvictionPolicy, blocks: Sequence[BlockKey], counts: Hits) -> None:
    """One request over a pool in which no block outlives its parent.

    Its blocks are pinned while it runs, as an engine does. From the first block that finds no room
    on, nothing of it is cached: what follows would have no parent.
    """
    found: list[bool] = []
    walked: list[BlockKey] = []
    for key in blocks:
        if key in policy:
            policy.on_hit(key)
            found.append(True)
        else:
            full = len(policy) >= policy.capacity
            if full and not policy.select_victims(1, incoming=key).victims:
                break
            policy.on_insert(key, parent=walked[-1] if walked else None)
            found.append(False)
        policy.pin(key)
        walked.append(key)
    for key in walked:
        policy.unpin(key)
    found.extend([False] * (len(blocks) - len(found)))
    counts.add(found)
