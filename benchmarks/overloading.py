"""More requests than the fleet can serve, offered at a fixed rate whatever becomes of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.types.errors import BY_CODE, Refused, RequestError
from sage_llm_ops.types.requests import Request

REFUSALS = frozenset(code for code, kind in BY_CODE.items() if issubclass(kind, Refused))


class Offered(NamedTuple):
    """One request: when it was offered, when it was over, and how; seconds on one clock. A tuple of
    plain values, which the garbage collector lets alone: tens of thousands are kept."""

    at: float
    over: float
    code: str = ""
    """Empty where it completed."""


def offer(
    pipeline: LivePipeline, feed: Iterator[Request], rate: float, seconds: float
) -> list[Offered]:
    """Offer `rate` a second for `seconds` from this thread, and wait until all are over; in the order
    in which they were."""
    out: list[Offered] = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        request = next(feed)
        at = time.perf_counter()
        try:
            handle = pipeline.submit(request)
        except Refused as error:
            out.append(Offered(at, time.perf_counter(), error.code))
        else:
            handle.subscribe(partial(_note, handle, at, out))
    if not pipeline.wait_idle(60.0):
        raise RuntimeError("not everything that was accepted has ended")
    return out


def _note(handle: RequestHandle, at: float, out: list[Offered]) -> None:
    if handle.done():
        over = time.perf_counter()
        try:
            handle.outcome()
        except RequestError as error:
            out.append(Offered(at, over, error.code))
        else:
            out.append(Offered(at, over))
