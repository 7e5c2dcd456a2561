"""Read-only looks into a running graph. They copy on access; nothing can be changed through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

from sage_llm_ops.scheduler_ir import Strategy
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.requests import Request
from sage_llm_ops.types.results import RequestState


class PendingQueue(Sequence[Request]):
    """Requests that wait for a place, in the order in which they would get one."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy

    def __len__(self) -> int:
        return len(self._strategy)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._snapshot())

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        return self._snapshot()[index]

    def _snapshot(self) -> list[Request]:
        return [job.request for job in self._strategy]


class RunningRequests(Mapping[str, RequestState]):
    """Requests that are on a worker."""

    def __init__(self, running: Mapping[NodeId, Job], state: Callable[[str], RequestState]) -> None:
        self._running = running
        self._state = state

    def __len__(self) -> int:
        return len(self._ids())

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids())

    def __getitem__(self, request_id: str) -> RequestState:
        if request_id not in self._ids():
            raise KeyError(request_id)
        return self._state(request_id)

    def _ids(self) -> dict[str, None]:
        return {job.request.id: None for job in list(self._running.values())}
