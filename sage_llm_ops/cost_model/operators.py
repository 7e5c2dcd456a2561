"""How long a single GPU operator takes: a polynomial between logarithms.

    log(ms) = P(log sizes, log(roofline ms + launch)),  P of degree 3

The roofline (flops over peak, bytes over bandwidth) carries most of it, the polynomial what a
kernel makes of a shape. For GEMM the waves of 128 x 128 tiles over 132 multiprocessors are one more
variable. Coefficients are fitted by `python -m benchmarks.fit_costs` and shipped in
`priors.json` with their source; held-out error stands beside them.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
DEGREE = 3
MULTIPROCESSORS = 132
TFLOPS, FP8_TFLOPS, GB_S, NVLINK_GB_S = 989.0, 1978.0, 4800.0, 450.0
"""H200 SXM, from its data sheet (as aiconfigurator's `systems/h200_sxm.yaml` gives it)."""


def powers(variables: list[Array]) -> Array:
    """Every product of at most `DEGREE` variables; one column each, the first is 1."""
    columns = [np.ones_like(variables[0])]
    for degree in range(1, DEGREE + 1):
        for chosen in combinations_with_replacement(variables, degree):
            columns.append(np.prod(chosen, axis=0))
    return np.stack(columns, axis=1)


def evaluate(weights: Array, variables: list[Array]) -> Array:
    """Milliseconds."""
    found: Array = np.exp(powers(variables) @ weights)
    return found


def gemm_variables(m: Array, n: Array, k: Array, *, fp8: bool) -> list[Array]:
    """Sizes of one matrix product, m x k by k x n."""
    size = 1.0 if fp8 else 2.0
    flops = 2.0 * m * n * k / ((FP8_TFLOPS if fp8 else TFLOPS) * 1e9)
    read = ((m + n) * k * size + 2.0 * m * n) / (GB_S * 1e6)
    waves = np.ceil(np.ceil(m / 128) * np.ceil(n / 128) / MULTIPROCESSORS)
    logs = [np.log(x) / 10.0 for x in (m, n, k)]
    return [*logs, np.log(flops + read + 3e-3), np.log(waves * k) / 10.0]


def attention_variables(
    batch: Array, new: Array, cached: Array, heads: Array, kv_heads: Array, *,
    head_dim: int, window: int, fp8_kv: bool,
) -> list[Array]:  # fmt: skip
    """Sizes of one attention call; `new` is 1 for a decode."""
    span = new + cached
    seen = np.minimum(span, window) if window else span
    share = np.where(new > 1, 0.5, 1.0)  # a prompt's tokens see half of it on average
    kv_size = 1.0 if fp8_kv else 2.0
    flops = 4.0 * share * batch * heads * head_dim * new * seen / (TFLOPS * 1e9)
    kv = 2.0 * kv_size * batch * seen * kv_heads * head_dim
    queries = np.where(new > 1, 4.0 * batch * new * heads * head_dim, 0.0)
    read = (kv + queries) / (GB_S * 1e6)
    logs = [np.log(x) / 10.0 for x in (batch, span, heads, kv_heads)]
    return [*logs, np.log(flops + read + 8e-3)]


def collective_variables(gpus: Array, n_bytes: Array) -> list[Array]:
    """Sizes of one collective among `gpus`."""
    wire = n_bytes / (NVLINK_GB_S * 1e6) * (gpus - 1.0) / gpus
    return [np.log(n_bytes) / 10.0, np.log(gpus), np.log(wire + 6e-3)]
