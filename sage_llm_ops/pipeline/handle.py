"""The caller's side of one request: its stream of tokens and its end."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

from sage_llm_ops.engines.base import Tokenizer
from sage_llm_ops.engines.tokenizers import estimate
from sage_llm_ops.engines.tokenizers.stops import stop_at
from sage_llm_ops.pipeline.loop_bridge import LoopBridge
from sage_llm_ops.types.errors import IntegrityError, failure
from sage_llm_ops.types.events import Outcome
from sage_llm_ops.types.requests import Request, RequestStatus
from sage_llm_ops.types.results import RequestResult, Timings, Usage

log = logging.getLogger("sage_llm_ops.pipeline")

NOBODY = 1 << 62
"""Tokens read where nobody reads: nobody is never behind."""

_LOCK = threading.Lock()
"""Guards changes of waiter tuples; shared, because a lock for each request costs more than it saves.
Writers, who call the waiters for every token, read the tuple without it."""


class RequestHandle:
    """Tokens come from the worker's thread, the end from the graph's, readers from anywhere.

    Each offset is taken once, in order.
    """

    __slots__ = (
        "_error",
        "_outcome",
        "_read",
        "_readers",
        "_result",
        "_tokenizer",
        "_waiters",
        "attempt",
        "counted",
        "embedding",
        "lagging",
        "request",
        "taken",
        "tokens",
        "worker",
    )

    def __init__(self, request: Request, tokenizer: Tokenizer | None = None) -> None:
        self.request = request
        self.tokens: list[int] = []
        """Token ids in the caller's stream, all attempts together."""
        self.embedding: tuple[float, ...] | None = None
        self.counted: tuple[int, int] | None = None
        """Prompt and completion tokens by a server's own count, where ours would be an estimate."""
        self.worker: str | None = None
        self.attempt = 0
        self.taken = False
        """Whether the worker of the running attempt said that its engine holds it."""
        self._tokenizer = tokenizer
        self._outcome: Outcome | None = None
        self._result: RequestResult | None = None
        self._error: Exception | None = None
        self._waiters: tuple[Callable[[], Any], ...] = ()
        self._readers = 0
        self._read = NOBODY
        """Tokens that the fastest of its streams has handed on."""
        self.lagging = False
        """Whether its streams were found too far behind."""

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.request.id

    # -- writers ------------------------------------------------------------------------------

    def push(self, offset: int, ids: list[int]) -> int:
        """New tokens at `offset`, which must be the next one: a gap or a repetition is a defect.
        Returns how many wait for its fastest stream; below 0 where nobody reads one."""
        if offset != len(self.tokens):
            raise IntegrityError(f"token {offset} came where {len(self.tokens)} was due")
        self.tokens.extend(ids)
        self._wake()
        return len(self.tokens) - self._read

    def finish(self, outcome: Outcome) -> None:
        """The one end; the second call is a defect."""
        if self._outcome is not None:
            raise IntegrityError(f"request {self.request.id!r} ended twice")
        self._outcome = outcome
        self._wake()
        self._waiters = ()

    # -- readers ------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended."""
        return self._outcome is not None

    @property
    def status(self) -> RequestStatus:
        """Where it stands, as far as the caller's side can tell."""
        if self._outcome is None:
            if self.worker is None:
                return RequestStatus.QUEUED
            return RequestStatus.RUNNING if self.taken else RequestStatus.SCHEDULED
        if not self._outcome.code:
            return RequestStatus.COMPLETED
        cancelled = self._outcome.code == "cancelled"
        return RequestStatus.CANCELLED if cancelled else RequestStatus.FAILED

    @property
    def timings(self) -> Timings:
        """What happened when, so far."""
        if self._outcome is None:
            return Timings(self.request.arrived)
        job = self._outcome.job
        return Timings(
            self.request.arrived, job.placed, job.accepted, job.first_token, self._outcome.now
        )

    def text(self) -> str:
        """The text so far."""
        if self._tokenizer is None:
            return ""
        skip = self.request.sampling.skip_special_tokens
        text = self._tokenizer.decode(self.tokens, skip_special_tokens=skip)
        return text[: stop_at(text, self.request.sampling.stop)]

    def outcome(self) -> RequestResult:
        """The result of an ended request, or its error raised."""
        end = self._outcome
        if end is None:
            raise IntegrityError(f"request {self.request.id!r} has not ended")
        self._check(end)
        if self._result is None:
            self._result = self._make_result(end)
        return self._result

    def result(self, timeout: float | None = None) -> RequestResult:
        """Wait in a thread; `TimeoutError` leaves the request running."""
        if self._outcome is None:
            ended = threading.Event()

            def wake() -> None:
                if self._outcome is not None:
                    ended.set()

            waiter = self.subscribe(wake)
            try:
                if not ended.wait(timeout):
                    raise TimeoutError(
                        f"request {self.request.id!r} has not ended within {timeout} s"
                    )
            finally:
                self.unsubscribe(waiter)
        return self.outcome()

    def __await__(self) -> Generator[Any, None, RequestResult]:
        return self._async_result().__await__()

    def subscribe(self, wake: Callable[[], Any]) -> Callable[[], Any]:
        """`wake` is called, from any thread, after new tokens and at the end; at once if it ended."""
        with _LOCK:
            self._waiters += (wake,)
        if self._outcome is not None:
            wake()
        return wake

    def unsubscribe(self, wake: Callable[[], Any]) -> None:
        """It is not called any more; nothing happens if it was not subscribed."""
        with _LOCK:
            self._waiters = tuple(known for known in self._waiters if known != wake)

    async def stream(self) -> AsyncIterator[list[int]]:
        """New token ids as they come; raises the request's error at its end."""
        loop, bridge = asyncio.get_running_loop(), LoopBridge.here()
        news: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not news.done():
                news.set_result(None)

        waiter = self._begin_stream(lambda: bridge.post(wake))
        seen = 0
        try:
            while True:
                end = self._outcome
                fresh = self.tokens[seen:]
                seen += len(fresh)
                if fresh:
                    self._read = max(self._read, seen)
                    yield fresh
                if end is not None and seen == len(self.tokens):
                    break
                if not fresh:
                    # `wake` runs in this loop, so never between these two lines.
                    news = loop.create_future()
                    await news
        finally:
            self._end_stream(waiter)
        self._check(end)

    def iter(self, timeout: float | None = None) -> Iterator[list[int]]:
        """`stream` for threads. `timeout` bounds the wait for each piece."""
        news = threading.Event()
        waiter = self._begin_stream(news.set)
        seen = 0
        try:
            while True:
                news.clear()
                end = self._outcome
                fresh = self.tokens[seen:]
                seen += len(fresh)
                if fresh:
                    self._read = max(self._read, seen)
                    yield fresh
                if end is not None and seen == len(self.tokens):
                    break
                if not fresh and not news.wait(timeout):
                    raise TimeoutError(f"request {self.request.id!r}: no token for {timeout} s")
        finally:
            self._end_stream(waiter)
        self._check(end)

    # -- inside -------------------------------------------------------------------------------

    def _begin_stream(self, wake: Callable[[], Any]) -> Callable[[], Any]:
        """Who begins late is not behind with what came before."""
        with _LOCK:
            self._readers += 1
            if self._readers == 1:
                self._read = len(self.tokens)
        return self.subscribe(wake)

    def _end_stream(self, wake: Callable[[], Any]) -> None:
        self.unsubscribe(wake)
        with _LOCK:
            self._readers -= 1
            if not self._readers:
                self._read = NOBODY

    async def _async_result(self) -> RequestResult:
        if self._outcome is None:
            bridge = LoopBridge.here()
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def settle() -> None:
                if not ended.done():
                    ended.set_result(None)

            def wake() -> None:
                if self._outcome is not None:
                    bridge.post(settle)

            self.subscribe(wake)
            try:
                await ended
            finally:
                self.unsubscribe(wake)
        return self.outcome()

    def _check(self, end: Outcome) -> None:
        """Raise the error of a request that did not complete."""
        if end.code:
            if self._error is None:
                self._error = failure(
                    end.code, end.message, self.request.id, tuple(self.tokens), end.retry_after_s
                )
            raise self._error.with_traceback(None)  # else it grows with every reader

    def _wake(self) -> None:
        for wake in self._waiters:
            try:
                wake()
            except Exception as error:
                # Neither the other readers nor the worker's or the graph's thread, which called
                # us, may pay for that.
                log.warning("a reader of request %r is gone: %s", self.request.id, error)
                self.unsubscribe(wake)

    def _make_result(self, end: Outcome) -> RequestResult:
        job = end.job
        return RequestResult(
            request_id=self.request.id,
            text=self.text(),
            token_ids=tuple(self.tokens),
            finish_reason=end.finish_reason,
            usage=self._usage(job.cached),
            timings=self.timings,
            instance_id=str(job.worker),
            attempts=job.attempt,
            embedding=self.embedding,
        )

    def _usage(self, cached: int) -> Usage:
        if self.counted is not None:
            return Usage(*self.counted, cached)
        if self.request.estimated:
            return Usage(self.request.n_prompt, estimate(len(self.tokens)), cached, estimated=True)
        return Usage(self.request.n_prompt, len(self.tokens), cached)
