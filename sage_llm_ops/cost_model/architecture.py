"""From a model's dimensions and the operators of one GPU to the time of its steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sage_llm_ops.cost_model import operators as ops
from sage_llm_ops.cost_model.operators import Array
from sage_llm_ops.cost_model.step import SHORT, Coefficients
from sage_llm_ops.types.errors import ConfigError

BYTES = 2


@dataclass(frozen=True, slots=True)
class Architecture:
    """A dense decoder with gated feed-forward layers."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int

    @property
    def kv_bytes_per_token(self) -> int:
        """2 * layers * kv_heads * head_dim * bytes: 327,680 for LLaMA3-70B in 16 bit."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES


ARCHITECTURES = {
    "llama-2-7b": Architecture(32, 4096, 32, 32, 128, 11008, 32000),
    "llama-2-70b": Architecture(80, 8192, 64, 8, 128, 28672, 32000),
    "llama-3-8b": Architecture(32, 4096, 32, 8, 128, 14336, 128256),
    "llama-3-70b": Architecture(80, 8192, 64, 8, 128, 28672, 128256),
    "qwen2.5-0.5b": Architecture(24, 896, 14, 2, 64, 4864, 151936),
    "qwen2.5-7b": Architecture(28, 3584, 28, 4, 128, 18944, 152064),
    "qwen2.5-32b": Architecture(64, 5120, 40, 8, 128, 27648, 152064),
}
"""From the models' own configuration files."""

_PREFILLS = [(1, n) for n in (16, 64, 128, 256, 384, 512, 768, 1024, 2048, 4096, 8192, 16384)]
_PREFILLS += [(4, 256), (8, 512), (4, 2048)]
_DECODES = [
    (b, c) for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) for c in (128, 512, 1024, 2048, 4096, 8192)
]


class Device:
    """The operators of one GPU: fitted weights by name."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._weights = weights

    def layer_ms(
        self, arch: Architecture, tp: int, batch: Array, new: Array, cached: Array
    ) -> Array:
        """One layer over `batch` sequences of `new` tokens behind `cached` each."""
        tokens = batch * new
        heads, kv_heads = arch.heads // tp, max(1, arch.kv_heads // tp)
        width, inner = heads * arch.head_dim, arch.feed_forward // tp
        ms = self._gemm(tokens, width + 2 * kv_heads * arch.head_dim, arch.hidden)
        ms = ms + self._gemm(tokens, arch.hidden, width)
        ms = (
            ms + self._gemm(tokens, 2 * inner, arch.hidden) + self._gemm(tokens, arch.hidden, inner)
        )
        kind = "generation" if (new == 1).all() else "context"
        variables = ops.attention_variables(
            batch, new, cached, np.full_like(batch, heads), np.full_like(batch, kv_heads),
            head_dim=arch.head_dim, window=0, fp8_kv=False,
        )  # fmt: skip
        ms = ms + ops.evaluate(self._weights[f"{kind}/bfloat16/0/{arch.head_dim}"], variables)
        if tp > 1:
            sent = ops.collective_variables(np.full_like(batch, tp), tokens * arch.hidden * BYTES)
            ms = ms + 2.0 * ops.evaluate(self._weights["all_reduce/vLLM_custom_graph"], sent)
        return ms

    def step_ms(
        self, arch: Architecture, tp: int, batch: Array, new: Array, cached: Array
    ) -> Array:
        """All layers and the last one's logits, one row a sequence."""
        last = self._gemm(batch, arch.vocabulary // tp, arch.hidden)
        return arch.layers * self.layer_ms(arch, tp, batch, new, cached) + last

    def _gemm(self, m: Array, n: float, k: float) -> Array:
        n_, k_ = np.full_like(m, n), np.full_like(m, k)
        return ops.evaluate(
            self._weights["gemm/bfloat16"], ops.gemm_variables(m, n_, k_, fp8=False)
        )


def coefficients(device: Device, arch: Architecture, tp: int = 1) -> Coefficients:
    """The step form of `step.py`, fitted to the composed times. The plane's own overhead and the
    engine's between two steps are not in it: that is what learning is for."""
    if arch.heads % tp or arch.feed_forward % tp:
        raise ConfigError(f"tensor_parallel_size={tp} does not divide {arch.heads} heads")
    b, n = np.array(_PREFILLS, dtype=float).T
    prefill = device.step_ms(arch, tp, b, n, np.zeros_like(n))
    rows = np.stack([np.ones_like(n), b * n, np.minimum(b * n, SHORT), b * n * n], axis=1)
    d, c = np.array(_DECODES, dtype=float).T
    decode = device.step_ms(arch, tp, d, np.ones_like(d), c)
    steady = np.stack([np.ones_like(d), d, d * c], axis=1)
    return np.concatenate([fit(rows, prefill), fit(steady, decode)])


def fit(rows: Array, y: Array, rounds: int = 30) -> Array:
    """Least absolute relative error, by reweighting: a few rows of another regime (a batch that no
    longer fits into memory) do not bend it."""
    weights: Array = 1.0 / y
    found: Array = np.zeros(rows.shape[1])
    for _ in range(rounds):
        found = np.asarray(np.linalg.lstsq(rows * weights[:, None], y * weights, rcond=None)[0])
        error = np.abs(rows @ found / y - 1.0)
        weights = 1.0 / y / np.sqrt(np.maximum(error, 1e-3))
    if found[-1] < 0.0:  # attention does not get cheaper with length: too little data to tell
        return np.append(fit(rows[:, :-1], y, rounds), 0.0)
    return found
