"""LMDeploy's PyTorch engine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from sage_llm_ops.engines.lmdeploy.core import STOP_S, Core, Limits
from sage_llm_ops.engines.lmdeploy.options import LmdeployOptions


class PytorchCore(Core):
    """The engine itself, in this process, below LMDeploy's server and its detokeniser."""

    backend = "pytorch"

    def __init__(self, options: LmdeployOptions, session_len: int) -> None:
        super().__init__()
        self._options = options
        self._session_len = session_len
        self._engine: Any = None

    async def _start(self) -> None:
        from lmdeploy.messages import PytorchEngineConfig

        given = {"session_len": self._session_len, **self._options.arguments(self.backend)}
        self._engine = self._build(PytorchEngineConfig(**given))
        self._engine.start()
        await asyncio.sleep(0)  # its tasks have begun, so that a stop finds them

    def _build(self, config: Any) -> Any:
        from lmdeploy.pytorch.engine.engine import Engine

        return Engine(
            self._options.model,
            engine_config=config,
            trust_remote_code=self._options.trust_remote_code,
        )

    async def _stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
            with contextlib.suppress(asyncio.CancelledError, asyncio.TimeoutError):
                await asyncio.wait_for(engine.wait_tasks(), STOP_S)

    @property
    def limits(self) -> Limits:
        engine = self._engine
        cache = engine.cache_config
        return Limits(
            max_model_len=int(engine.max_session_len),
            max_num_seqs=int(engine.scheduler_config.max_batches),
            max_num_batched_tokens=int(cache.max_prefill_token_num),
            kv_blocks=int(cache.num_gpu_blocks),
            block_size=int(cache.block_size),
            prefix_cache=bool(cache.enable_prefix_caching),
        )

    def metrics(self) -> Any:
        return self._engine.get_schedule_metrics()

    async def _check_alive(self) -> None:
        status = self._engine.get_local_health_status()
        if not status["alive"]:
            raise RuntimeError(f"LMDeploy's engine has died: {status['message']}")

    def _open(self) -> Any:
        return self._engine.create_instance()

    def _stream(self, handle: Any, session: int, ids: list[int], config: Any, adapter: str) -> Any:
        return handle.async_stream_infer(
            session, ids, gen_config=config, adapter_name=adapter or None
        )
