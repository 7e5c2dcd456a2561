"""Which parallelism fits a model onto GPUs. By the memory it needs; nothing is measured here."""

from __future__ import annotations

from math import ceil, inf

from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.parallelism import ParallelismConfig, ParallelismType

ROOM = 0.8
"""Share of a GPU's memory that weights may take: KV, activations and the engine need the rest."""
WIDEST = 8
"""GPUs that are near enough for tensor parallelism: those of one host."""


class ParallelismOptimizer:
    """Recommends; what an engine can really run is its own to say when it starts."""

    def recommend_strategy(
        self, model_size_gb: float, gpu_count: int, gpu_memory_gb: float
    ) -> ParallelismConfig:
        """Kinds worth using, the first one first.

        Fits on one GPU: copies of it (DP) are the most throughput. Fits on one host: tensor
        parallelism, and copies if GPUs are left. Larger: stages across hosts as well.
        """
        for name, value in (
            ("model_size_gb", model_size_gb),
            ("gpu_count", gpu_count),
            ("gpu_memory_gb", gpu_memory_gb),
        ):
            if not 0 < value < inf:
                raise ConfigError(f"{name}={value!r} must be above 0, and finite", key=name)
        needed = max(1, ceil(model_size_gb / (gpu_memory_gb * ROOM)))
        if needed > gpu_count:
            raise ConfigError(
                f"a model of {model_size_gb:g} GB needs {needed} GPUs of {gpu_memory_gb:g} GB "
                f"(weights may take {ROOM:.0%} of each), gpu_count={gpu_count}; add GPUs or "
                "quantise it"
            )
        width = _power_of_two(needed)
        if needed == 1:
            kinds = [ParallelismType.DP] if gpu_count > 1 else []
        elif width <= min(WIDEST, gpu_count):
            copies = gpu_count // width > 1
            kinds = [ParallelismType.TP, *([ParallelismType.DP] if copies else [])]
        else:
            kinds = [ParallelismType.TP, ParallelismType.PP]
        if len(kinds) > 1:
            kinds.append(ParallelismType.HYBRID)
        return ParallelismConfig(auto_optimize=True, supported_strategies=list(kinds))

    def optimize_hybrid_config(self, gpu_count: int) -> tuple[int, int, int]:
        """(tp, pp, dp) with the product `gpu_count`.

        Tensor parallelism as wide as a power of two in one host divides the count, at most 4 where
        that leaves an even number over: beyond, its all-reduces eat what it gains. What is left goes
        to stages while it is even and small, the rest to copies.
        """
        if gpu_count < 1:
            raise ConfigError(f"gpu_count={gpu_count} must be at least 1", key="gpu_count")
        tp = 1
        while tp < 4 and gpu_count % (tp * 2) == 0:
            tp *= 2
        left = gpu_count // tp
        pp = 2 if left % 2 == 0 else 1
        return tp, pp, left // pp


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
