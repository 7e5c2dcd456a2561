"""Seeded sampling on the CPU: LMDeploy's own fallback draws from one generator for all."""

from __future__ import annotations

from typing import Any

import torch
from lmdeploy.pytorch.backends.multinomial_sampling import MultinomialSamplingImpl


class CpuSampling(MultinomialSamplingImpl):
    """A row's draw depends on its own seed and its place in the sequence, on nothing else."""

    def forward(self, scores: Any, seeds: Any, offsets: Any, indices: Any = None) -> Any:
        chosen = []
        for row, (seed, offset) in enumerate(zip(seeds.tolist(), offsets.tolist(), strict=True)):
            generator = torch.Generator().manual_seed((seed * 1_000_003 + offset) % 2**63)
            pick = torch.multinomial(scores[row], 1, generator=generator)
            chosen.append(pick if indices is None else indices[row][pick])
        return torch.cat(chosen)
