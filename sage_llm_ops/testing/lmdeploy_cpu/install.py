"""Puts the stand-ins in place, once per process. There is no way back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache


@cache
def install() -> None:
    """Before LMDeploy's engine is imported."""
    from sage_llm_ops.testing.lmdeploy_cpu import cuda

    cuda.install()
    # Only now: what they import looks at torch.cuda.
    from sage_llm_ops.testing.lmdeploy_cpu import ops

    ops.install()


def building() -> AbstractContextManager[None]:
    """A context in which the engine is made."""
    from sage_llm_ops.testing.lmdeploy_cpu import cuda

    return cuda.building()
