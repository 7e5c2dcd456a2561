"""Which parallelism is recommended: what fits, and nothing that is no number."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.scheduler_ir import ParallelismOptimizer
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.parallelism import ParallelismType

TP, PP, DP, HYBRID = (
    ParallelismType.TP,
    ParallelismType.PP,
    ParallelismType.DP,
    ParallelismType.HYBRID,
)


@pytest.mark.parametrize(
    ("size", "gpus", "kinds"),
    [
        (1e-9, 1, []),
        (14.0, 1, []),
        (14.0, 4, [DP]),
        (140.0, 4, [TP]),
        (140.0, 8, [TP, DP, HYBRID]),
        (800.0, 16, [TP, PP, HYBRID]),
    ],
)
def test_what_fits(size: float, gpus: int, kinds: list[ParallelismType]) -> None:
    found = ParallelismOptimizer().recommend_strategy(size, gpus, 80.0)
    assert found.supported_strategies == kinds


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ((inf, 8, 80.0), "model_size_gb=inf"),
        ((14.0, 8, inf), "gpu_memory_gb=inf"),
        ((nan, 8, 80.0), "model_size_gb=nan"),
        ((14.0, 0, 80.0), "gpu_count=0"),
        ((140.0, 1, 80.0), "needs 3 GPUs"),
    ],
)
def test_what_does_not(given_: tuple[float, int, float], words: str) -> None:
    """Regression: an endless model was an OverflowError, and endless memory needed two GPUs."""
    with pytest.raises(ConfigError, match=words):
        ParallelismOptimizer().recommend_strategy(*given_)


@given(st.integers(1, 4096))
def test_the_product_is_all_gpus(count: int) -> None:
    tp, pp, dp = ParallelismOptimizer().optimize_hybrid_config(count)
    assert tp * pp * dp == count
    assert tp in (1, 2, 4)
    assert pp in (1, 2)
