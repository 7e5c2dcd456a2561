"""Where LMDeploy lives on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def lmdeploy_python() -> str:
    """The interpreter of LMDeploy's environment; skips the test by name where there is none."""
    given = os.environ.get("SAGE_LLM_OPS_LMDEPLOY_PYTHON")
    python = Path(given) if given else ROOT / ".venv-lmdeploy" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"LMDeploy's environment is not there ({python}): run `make lmdeploy`")
    return str(python)
