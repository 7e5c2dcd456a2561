"""A CPU device for LMDeploy's PyTorch engine: the real engine, scheduler, paging, model agent and model
code; only the operators and `torch.cuda` are stand-ins.

For tests. Production code knows nothing of it; it becomes active only where an instance names the
engine below, `sage_llm_ops.testing...`, in full.
"""

import os
from pathlib import Path

from sage_llm_ops.types.errors import ConfigError

CPU_LMDEPLOY = f"{__name__}.engine:CpuLmdeployEngine"
"""Its name for `make_engine` and `ExecutionInstance.engine`."""
TURBOMIND_HARNESS = f"{__name__}.turbomind:TurbomindHarness"
"""TurboMind's Python layer and types without its C++ engine."""


def lmdeploy_python() -> str:
    """The interpreter of LMDeploy's environment; raises `ConfigError` where there is none.

    `SAGE_LLM_OPS_LMDEPLOY_PYTHON`, else what `make lmdeploy` made in this checkout.
    """
    made = Path(__file__).resolve().parents[3] / ".venv-lmdeploy" / "bin" / "python"
    python = os.environ.get("SAGE_LLM_OPS_LMDEPLOY_PYTHON") or str(made)
    if not os.access(python, os.X_OK):
        raise ConfigError(f"LMDeploy's environment is not there ({python}): run `make lmdeploy`")
    return python
