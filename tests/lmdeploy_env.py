"""Where LMDeploy lives on this machine."""

from __future__ import annotations

import pytest

from sage_llm_ops.testing import lmdeploy_cpu
from sage_llm_ops.types.errors import ConfigError


def lmdeploy_python() -> str:
    """The interpreter of LMDeploy's environment; skips the test by name where there is none."""
    try:
        return lmdeploy_cpu.lmdeploy_python()
    except ConfigError as error:
        pytest.skip(str(error))
