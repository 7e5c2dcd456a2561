"""A vLLM engine that tells of its prefix cache for one batch, and for another does not.

Two processes of the same engine differ by up to a tenth on a small machine, whatever they are told:
what costs a hundredth shows within one process only.
"""

from __future__ import annotations

import os
from pathlib import Path

from sage_llm_ops.engines.vllm.engine import VllmEngine
from sage_llm_ops.engines.vllm.inproc import InprocCore
from sage_llm_ops.types.plans import PlanNode

FLAG = "SAGE_LLM_OPS_BENCH_TELLS"
"""Names the file that says whether the next batch is told of: `1` or `0`."""


class ToggledVllm(VllmEngine):
    """Looks at the file whenever it begins to work."""

    def submit(self, node: PlanNode) -> None:
        if not self.busy:
            core = self._core
            assert isinstance(core, InprocCore)
            manager = core._scheduler.kv_cache_manager
            tells = Path(os.environ[FLAG]).read_text() == "1"
            manager.enable_kv_cache_events = manager.block_pool.enable_kv_cache_events = tells
        super().submit(node)
