"""AsyncLLM: its EngineCore runs in a process of its own, overlapping with what happens here.

AsyncLLM wants an event loop; ours lives in a thread and feeds a queue, which `poll` empties.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from sage_llm_ops.engines.vllm.core import Load, Rejected

Result = TypeVar("Result")

PATIENCE_S = 0.002
"""Longest wait of one poll: what a new command may have to wait while nothing comes out."""


class AsyncCore:
    """Implements `Core`."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        self._engine: Any = None
        self._supported: tuple[str, ...] = ()
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """The loop's own; ends with their requests."""
        self._outputs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._load = Load(0, 0, 0.0)

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vllm-async", daemon=True
        )
        self._thread.start()
        self._wait(self._start())

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                self._wait(self._stop())
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    @property
    def config(self) -> Any:
        return self._engine.vllm_config

    @property
    def tasks(self) -> tuple[str, ...]:
        return self._supported

    def add(self, key: str, ids: list[int], params: Any, *, pooling: bool, **more: Any) -> None:
        self._loop.call_soon_threadsafe(self._begin, key, ids, params, pooling, more)

    def abort(self, key: str) -> None:
        self._loop.call_soon_threadsafe(self._cancel, key)

    def poll(self) -> list[Any]:
        out: list[Any] = []
        try:
            out.append(self._outputs.get(timeout=PATIENCE_S))
            while True:
                out.append(self._outputs.get_nowait())
        except queue.Empty:
            pass
        for item in out:
            if isinstance(item, Rejected) and type(item.error).__name__ == "EngineDeadError":
                raise item.error
        return out

    def load(self) -> Load:
        return self._load

    # on the loop

    async def _start(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**self._arguments), stat_loggers=[_stat_logger(self)]
        )
        self._supported = tuple(await self._engine.get_supported_tasks())

    async def _stop(self) -> None:
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _begin(
        self, key: str, ids: list[int], params: Any, pooling: bool, more: dict[str, Any]
    ) -> None:
        self._tasks[key] = self._loop.create_task(self._run(key, ids, params, pooling, more))

    def _cancel(self, key: str) -> None:
        # AsyncLLM aborts a request whose consumer is cancelled; a task that has not begun yet never
        # adds its request. Its own `abort` would miss the latter.
        task = self._tasks.get(key)
        if task is not None:
            task.cancel()

    async def _run(
        self, key: str, ids: list[int], params: Any, pooling: bool, more: dict[str, Any]
    ) -> None:
        begin = self._engine.encode if pooling else self._engine.generate
        try:
            async for output in begin({"prompt_token_ids": ids}, params, key, **more):
                self._outputs.put(output)
        except Exception as error:
            self._outputs.put(Rejected(key, error))
        finally:
            del self._tasks[key]

    def _wait(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _stat_logger(core: AsyncCore) -> Any:
    """A class for vLLM to instantiate; made here because its base is vLLM's."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class Keep(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, *args: Any, **kwargs: Any) -> None:
            if scheduler_stats is not None:
                core._load = Load(
                    scheduler_stats.num_running_reqs,
                    scheduler_stats.num_waiting_reqs,
                    float(scheduler_stats.kv_cache_usage),
                )

        def log_engine_initialized(self) -> None:
            pass

    return Keep
