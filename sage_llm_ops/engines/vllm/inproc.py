"""LLMEngine in this process, stepped by us: one process, no event loop, exact control of steps."""

from __future__ import annotations

import os
import threading
from typing import Any, ClassVar

from sage_llm_ops.engines.vllm.core import Load
from sage_llm_ops.engines.vllm.kept import Kept


class InprocCore:
    """Implements `Core`."""

    _step_lock: ClassVar[threading.Lock] = threading.Lock()
    """vLLM's forward context is process-global: engines of one process step one at a time."""

    def __init__(self, arguments: dict[str, Any], kept: Kept | None = None) -> None:
        """`kept` is given what becomes of the prefix cache."""
        # Without stat loggers a step is shorter; what we report is read from the scheduler.
        self._arguments = {"disable_log_stats": True, **arguments}
        self._engine: Any = None
        self._kept = kept

    def start(self) -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        with self._step_lock:
            self._engine = LLMEngine.from_engine_args(
                EngineArgs(**self._arguments), enable_multiprocessing=False
            )
        if self._kept is not None:
            # vLLM's configuration takes no publishers but its own two, whatever is registered.
            self._scheduler.kv_event_publisher = self._kept

    def stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with self._step_lock:
                engine.engine_core.shutdown()

    @property
    def config(self) -> Any:
        return self._engine.vllm_config

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._engine.get_supported_tasks())

    def add(self, key: str, ids: list[int], params: Any, *, pooling: bool, **more: Any) -> None:
        self._engine.add_request(key, {"prompt_token_ids": ids}, params, **more)

    def abort(self, key: str) -> None:
        self._engine.abort_request([key])

    def poll(self) -> list[Any]:
        if not self._engine.has_unfinished_requests():
            return []
        with self._step_lock:
            outputs: list[Any] = self._engine.step()
        return outputs

    def load(self) -> Load:
        scheduler = self._scheduler
        return Load(
            len(scheduler.running), len(scheduler.waiting), float(scheduler.kv_cache_manager.usage)
        )

    @property
    def _scheduler(self) -> Any:
        return self._engine.engine_core.engine_core.scheduler
