"""What LMDeploy's two engines have in common for us: an event loop and streams of outputs.

LMDeploy wants an event loop. Ours runs on the worker's one thread and turns only inside `poll`: no
second thread contends for the interpreter with the one that feeds it, and between two polls nothing
moves. `active` says whether LMDeploy itself has anything left to do, such as to free what was
cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

from sage_llm_ops.types.errors import IntegrityError

Result = TypeVar("Result")

PATIENCE_S = 0.002
"""Longest wait of one poll: what a new command may have to wait while nothing comes out."""
STOP_S = 10.0


class Output(NamedTuple):
    """New tokens of one request, or its end."""

    key: str
    status: str
    """Name of LMDeploy's ResponseType: SUCCESS while it goes on."""
    ids: list[int]
    cached: int


class Broken(NamedTuple):
    """A request ended with an exception."""

    key: str
    error: Exception


def goes_on(item: Output | Broken) -> bool:
    """Whether more of the request will come."""
    return isinstance(item, Output) and item.status == "SUCCESS"


class Limits(NamedTuple):
    """What was measured when the engine was up."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    block_size: int
    prefix_cache: bool


class Core(ABC):
    """One engine of LMDeploy, driven from one thread. Keys are ours; a key is used once."""

    backend: str

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._streams: dict[str, tuple[Any, int]] = {}
        """LMDeploy's handle and session of each request that has begun."""
        self._cancels: set[asyncio.Task[None]] = set()
        self._outputs: list[Output | Broken] = []
        self._sessions = itertools.count(1)

    @abstractmethod
    async def _start(self) -> None:
        """Load; raises whatever LMDeploy raises."""

    @abstractmethod
    async def _stop(self) -> None:
        """Let go of the device."""

    @property
    @abstractmethod
    def limits(self) -> Limits:
        """As of after `start`."""

    @abstractmethod
    def metrics(self) -> Any:
        """LMDeploy's ScheduleMetrics."""

    @abstractmethod
    async def _check_alive(self) -> None:
        """Raises where the engine has died: it would not answer."""

    @abstractmethod
    def _open(self) -> Any:
        """A handle for one request."""

    def _close(self, handle: Any) -> None:  # noqa: B027 - most handles are not kept
        """Of a request that ended."""

    @abstractmethod
    def _stream(self, handle: Any, session: int, ids: list[int], config: Any, adapter: str) -> Any:
        """LMDeploy's asynchronous iterator over EngineOutput."""

    def start(self) -> None:
        self._run(self._start())

    def stop(self) -> None:
        """Idempotent."""
        if self._loop.is_closed():
            return
        try:
            self._run(self._end())
        finally:
            self._loop.close()

    @property
    def active(self) -> bool:
        return bool(self._tasks or self._cancels or self._outputs)

    def add(self, key: str, ids: list[int], config: Any, adapter: str = "") -> None:
        self._tasks[key] = self._loop.create_task(self._serve(key, ids, config, adapter))

    def abort(self, key: str) -> None:
        """Outputs of the key may still come; nobody listens to them."""
        task = self._tasks.get(key)
        if task is None:
            return
        if key not in self._streams:
            task.cancel()  # it has not begun, so LMDeploy has never heard of it
            self._tasks.pop(key)
            return
        cancel = self._loop.create_task(self._abort(key))
        self._cancels.add(cancel)
        cancel.add_done_callback(self._cancels.discard)

    def poll(self) -> list[Output | Broken]:
        """Turn the loop until something comes out, or for a moment."""
        patience = self._loop.call_later(0.0 if self._outputs else PATIENCE_S, self._loop.stop)
        self._loop.run_forever()
        patience.cancel()
        out, self._outputs = self._outputs, []
        if not out:
            self._run(self._check_alive())
        return out

    # on the loop

    async def _serve(self, key: str, ids: list[int], config: Any, adapter: str) -> None:
        handle, session = self._open(), next(self._sessions)
        self._streams[key] = handle, session
        ended = False
        try:
            async for output in self._stream(handle, session, ids, config, adapter):
                metrics = output.req_metrics
                cached = 0 if metrics is None else int(metrics.cached_tokens or 0)
                item = Output(key, output.status.name, list(output.token_ids or ()), cached)
                ended = not goes_on(item)
                self._put(item)
            if not ended:
                self._put(Broken(key, IntegrityError("LMDeploy's stream stopped without an end")))
        except Exception as error:
            self._put(Broken(key, error))
        finally:
            del self._streams[key], self._tasks[key]
            self._close(handle)

    async def _abort(self, key: str) -> None:
        stream = self._streams.get(key)
        if stream is not None:
            handle, session = stream
            await handle.async_cancel(session)

    def _put(self, item: Output | Broken) -> None:
        self._outputs.append(item)
        self._loop.stop()  # after this turn of the loop, so with what else is ready

    async def _end(self) -> None:
        left = [*self._tasks.values(), *self._cancels]
        for task in left:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), STOP_S)
        await self._stop()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(coroutine)
