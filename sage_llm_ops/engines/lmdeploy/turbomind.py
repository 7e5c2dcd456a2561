"""TurboMind, LMDeploy's C++ engine."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.engines.lmdeploy.core import Core, Limits
from sage_llm_ops.engines.lmdeploy.options import LmdeployOptions


class TurbomindCore(Core):
    """Over `TurboMindInstance.async_stream_infer`, whose callbacks come from the engine's own threads
    through the loop."""

    backend = "turbomind"

    def __init__(self, options: LmdeployOptions, session_len: int) -> None:
        super().__init__()
        self._options = options
        self._session_len = session_len
        self._engine: Any = None
        self._free: list[Any] = []
        """Handles hold a request object of the C++ side; each serves one request at a time."""

    async def _start(self) -> None:
        from lmdeploy.messages import TurbomindEngineConfig

        given = {"session_len": self._session_len, **self._options.arguments(self.backend)}
        # Without its metrics it does not say how many tokens came from the cache.
        self._engine = self._build(TurbomindEngineConfig(**{"enable_metrics": True, **given}))

    def _build(self, config: Any) -> Any:
        from lmdeploy.turbomind.turbomind import TurboMind

        return TurboMind(
            self._options.model,
            engine_config=config,
            trust_remote_code=self._options.trust_remote_code,
        )

    async def _stop(self) -> None:
        engine, self._engine = self._engine, None
        self._free.clear()
        if engine is not None:
            engine.close()

    @property
    def limits(self) -> Limits:
        config = self._engine.engine_config
        return Limits(
            max_model_len=int(self._engine.session_len),
            max_num_seqs=int(config.max_batch_size),
            max_num_batched_tokens=int(config.max_prefill_token_num),
            # A fraction of the memory: how many blocks came of it is known inside only.
            kv_blocks=self._options.num_gpu_blocks or 0,
            block_size=int(config.cache_block_seq_len),
            prefix_cache=bool(config.enable_prefix_caching),
        )

    def metrics(self) -> Any:
        return self._engine.get_schedule_metrics()

    async def _check_alive(self) -> None:
        """TurboMind lives in this process: it ends it when it dies."""

    def _open(self) -> Any:
        return self._free.pop() if self._free else self._engine.create_instance()

    def _close(self, handle: Any) -> None:
        self._free.append(handle)

    def _stream(self, handle: Any, session: int, ids: list[int], config: Any, adapter: str) -> Any:
        return handle.async_stream_infer(session, ids, gen_config=config, stream_output=True)
