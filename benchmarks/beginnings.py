"""Prompts that share beginnings, and the workers that hold them: one input for us and for peers."""

from __future__ import annotations

import random
from typing import NamedTuple

BLOCKS, BLOCK = 135, 64
HEADS, LONGEST = 64, 100
"""How many beginnings there are, and the blocks of each."""

Holders = list[dict[int, int]]
"""For each beginning: how many of its blocks each worker holds."""


class Prompt(NamedTuple):
    """`shared` blocks of a beginning, and blocks of its own: 135 in all."""

    head: int
    shared: int
    own: list[int]
    """Made-up hashes: nobody holds these."""

    def hits(self, holders: Holders) -> dict[int, int]:
        """Blocks that each worker has of it."""
        held = holders[self.head].items()
        return {worker: min(n, self.shared) for worker, n in held if min(n, self.shared)}


def prompts(n: int, seed: int) -> list[Prompt]:
    """The requests, in order."""
    rng = random.Random(seed)
    found = []
    for _ in range(n):
        head, shared = rng.randrange(HEADS), rng.randrange(LONGEST + 1)
        own = [rng.getrandbits(62) for _ in range(BLOCKS - shared)]
        found.append(Prompt(head, shared, own))
    return found


def holders(workers: int, seed: int) -> Holders:
    """Three workers hold each beginning, one of them all of it."""
    rng = random.Random(seed + 1)
    return [
        {
            worker: LONGEST if place == 0 else rng.randrange(1, LONGEST + 1)
            for place, worker in enumerate(rng.sample(range(workers), 3))
        }
        for _ in range(HEADS)
    ]


def tokens_of(head: int) -> list[int]:
    """The token ids of a beginning."""
    first = head * LONGEST * BLOCK
    return list(range(first, first + LONGEST * BLOCK))
