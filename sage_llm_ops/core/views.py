"""Read-only looks into a running graph. They copy on access; nothing can be changed through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import overload

from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.scheduler_ir import Strategy
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
    """Requests that were on a worker when the view was taken; each looked up as it stands now."""

    def __init__(
        self,
        ids: Sequence[str],
        find: Callable[[str], RequestHandle | None],
        state: Callable[[RequestHandle], RequestState],
    ) -> None:
        found = ((request_id, find(request_id)) for request_id in ids)
        self._handles = {request_id: handle for request_id, handle in found if handle is not None}
        self._state = state

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __getitem__(self, request_id: str) -> RequestState:
        return self._state(self._handles[request_id])
