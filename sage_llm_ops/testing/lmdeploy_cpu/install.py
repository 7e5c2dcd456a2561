"""Puts the stand-ins in place, once per process. There is no way back."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache


@cache
def install() -> None:
    """Before LMDeploy is imported."""
    # For the device that is not there: a check of CUDA and Triton, and kernels to warm.
    os.environ["LMDEPLOY_ENABLE_CHECK_ENV"] = "0"
    os.environ["LMDEPLOY_SKIP_WARMUP"] = "1"
    from sage_llm_ops.testing.lmdeploy_cpu import cuda

    cuda.install()
    # Only now: what they import looks at torch.cuda.
    from sage_llm_ops.testing.lmdeploy_cpu import ops

    ops.install()


def building() -> AbstractContextManager[None]:
    """A context in which the engine is made."""
    from sage_llm_ops.testing.lmdeploy_cpu import cuda

    return cuda.building()
