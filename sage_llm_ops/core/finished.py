"""What is remembered of requests that ended: so many, and so long."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from sage_llm_ops.pipeline.handle import RequestHandle


class Finished:
    """A bounded memory; the oldest goes first."""

    def __init__(
        self,
        keep: int = 1000,
        keep_s: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._keep_s = keep_s
        self._clock = clock
        self._handles: OrderedDict[str, tuple[float, RequestHandle]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, handle: RequestHandle) -> None:
        """Remember one; called on the graph's thread."""
        now = self._clock()
        with self._lock:
            self._handles[handle.request_id] = (now, handle)
            while len(self._handles) > self._keep:
                self._handles.popitem(last=False)
            oldest = next(iter(self._handles.values()), None)
            while oldest is not None and now - oldest[0] > self._keep_s:
                self._handles.popitem(last=False)
                oldest = next(iter(self._handles.values()), None)

    def get(self, request_id: str) -> RequestHandle | None:
        """None where it never was, or is forgotten."""
        with self._lock:
            found = self._handles.get(request_id)
        if found is None or self._clock() - found[0] > self._keep_s:
            return None
        return found[1]

    def __len__(self) -> int:
        return len(self._handles)
