"""More requests than the fleet can serve, offered at a fixed rate whatever becomes of them."""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.types.errors import BY_CODE, Refused, RequestError
from sage_llm_ops.types.requests import Request

REFUSALS = frozenset(code for code, kind in BY_CODE.items() if issubclass(kind, Refused))


class Offered(NamedTuple):
    """One request: when it was offered, when it was over, and how; seconds on one clock."""

    at: float
    over: float
    code: str = ""
    """Empty where it completed."""


class Account:
    """What became of so many requests. Its memory is taken when it is made, so that the memory that
    grows meanwhile is somebody else's."""

    def __init__(self, size: int) -> None:
        self._at = array("d", [0.0]) * size
        self._over = array("d", [0.0]) * size
        self._codes = [""] * size

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[Offered]:
        return map(Offered, self._at, self._over, self._codes)

    def put(self, number: int, at: float, code: str = "") -> None:
        """The request of this number is over now."""
        self._at[number], self._over[number] = at, time.perf_counter()
        self._codes[number] = sys.intern(code)


def offer(
    pipeline: LivePipeline, feed: Iterator[Request], rate: float, account: Account
) -> list[Offered]:
    """Offer `rate` a second from this thread until the account is full, and wait until all are over;
    in the order in which they were offered."""
    fill(pipeline, feed, rate, account)
    return list(account)


def fill(pipeline: LivePipeline, feed: Iterator[Request], rate: float, account: Account) -> None:
    """As `offer`, and the account tells."""
    began = time.perf_counter()
    for number in range(len(account)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        request = next(feed)
        at = time.perf_counter()
        try:
            handle = pipeline.submit(request)
        except Refused as error:
            account.put(number, at, error.code)
        else:
            handle.subscribe(partial(_note, handle, number, at, account))
    if not pipeline.wait_idle(60.0):
        raise RuntimeError("not everything that was accepted has ended")


def _note(handle: RequestHandle, number: int, at: float, account: Account) -> None:
    if handle.done():
        try:
            handle.outcome()
        except RequestError as error:
            account.put(number, at, error.code)
        else:
            account.put(number, at)
