"""LMDeploy's real PyTorch engine without a GPU."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.engines.lmdeploy.core import Core
from sage_llm_ops.engines.lmdeploy.engine import LmdeployEngine
from sage_llm_ops.engines.lmdeploy.options import LmdeployOptions
from sage_llm_ops.engines.lmdeploy.pytorch import PytorchCore
from sage_llm_ops.engines.lmdeploy.versions import check_backend

DEFAULTS = {
    "max_batch_size": 32,
    "max_prefill_token_num": 2048,
    "num_gpu_blocks": 512,
    "block_size": 32,
    "eager_mode": True,
}
"""Where nothing was said: the size of our vLLM workers on a CPU."""


class CpuCore(PytorchCore):
    """The same engine on the stand-in device, in float32: LMDeploy offers 16 bits only, on which two
    engines would differ by rounding."""

    def _build(self, config: Any) -> Any:
        from sage_llm_ops.testing.lmdeploy_cpu.install import building

        config.dtype = "float32"
        config.distributed_executor_backend = "uni"
        with building():
            return super()._build(config)


class CpuLmdeployEngine(LmdeployEngine):
    """Everything but the device is what runs in production."""

    def start(self) -> None:
        from sage_llm_ops.testing.lmdeploy_cpu.install import install

        install()
        super().start()

    def _make_core(self, session_len: int) -> Core:
        check_backend("pytorch", self._version)
        return CpuCore(with_defaults(self._options), session_len)


def with_defaults(options: LmdeployOptions) -> LmdeployOptions:
    """Options completed for the stand-in device."""
    missing = {name: value for name, value in DEFAULTS.items() if getattr(options, name) is None}
    return msgspec.structs.replace(options, backend="pytorch", **missing)


def plain_engine(options: dict[str, Any]) -> Any:
    """LMDeploy's own `Engine` with a worker's settings, for benchmarks; it is not started."""
    from sage_llm_ops.testing.lmdeploy_cpu.install import install

    install()
    from lmdeploy.messages import PytorchEngineConfig

    given = with_defaults(LmdeployOptions(**options))
    core = CpuCore(given, given.session_len or 0)
    return core._build(PytorchEngineConfig(**given.arguments("pytorch")))
