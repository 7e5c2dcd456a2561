"""The batch that the overhead suite sends both ways. Imports nothing heavy: both processes use it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from sage_llm_ops.types.requests import SamplingParams


@dataclass(frozen=True, slots=True)
class Shape:
    """`groups` prefixes of `shared` tokens; every prompt is one of them and some tokens more."""

    requests: int = 128
    groups: int = 8
    shared: int = 64
    own: tuple[int, int] = (1, 192)
    output: tuple[int, int] = (32, 64)

    def batch(self, seed: int) -> list[tuple[list[int], int]]:
        """Prompts and numbers of tokens to make. Another seed has no prompt block in common with
        this one, but the same lengths: equal work, and a prefix cache that starts as if empty."""
        lengths, content = random.Random(0), random.Random(seed + 1)
        prefixes = [_ids(content, self.shared) for _ in range(self.groups)]
        return [
            (
                prefixes[lengths.randrange(self.groups)]
                + _ids(content, lengths.randint(*self.own)),
                lengths.randint(*self.output),
            )
            for _ in range(self.requests)
        ]


def sampling(max_tokens: int) -> SamplingParams:
    """Greedy, and to the last token, so that the work is the same in every run."""
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(10, 2000) for _ in range(count)]
