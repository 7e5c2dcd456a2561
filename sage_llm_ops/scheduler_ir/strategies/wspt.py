"""Shortest first, weighted, with a bound."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from sage_llm_ops.scheduler_ir.strategies.base import Strategy
from sage_llm_ops.scheduler_ir.strategies.lane import Key
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.protocols import Outlook

WEIGHTS = (8.0, 4.0, 2.0, 1.0, 0.5)
"""By priority, CRITICAL first: each step is worth half of the one before."""


class WSPTOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`stretch`: how many times its own service time a job may be overtaken by later ones."""

    stretch: float = 20.0

    def __post_init__(self) -> None:
        check_stretch(self.stretch)


def check_stretch(stretch: float) -> None:
    """Beyond, the moment of arrival would be lost in a float, and with it the bound."""
    if not 0.0 <= stretch <= 1e6:
        raise ValueError(f"stretch={stretch!r} must be between 0 (arrival order) and 1e6")


def nearest(priority: int) -> int:
    """Priorities beyond the named ones count as the nearest of them."""
    return min(max(priority, 0), len(WEIGHTS) - 1)


def weight_of(priority: int) -> float:
    """What a second of its waiting counts."""
    return WEIGHTS[nearest(priority)]


class WSPT(Strategy):
    """Least mean waiting: by arrival + stretch * service / weight.

    Weighted shortest processing time with a moment instead of a ratio, so that it ages by itself. A
    job is overtaken only by those that arrive less than stretch * service / weight after it: a bound
    in its own length. With `stretch` 0 it is fifo, far up it is plain WSPT.
    """

    name: ClassVar[str] = "wspt"
    Options = WSPTOptions

    def __init__(self, options: Any = None, outlook: Outlook | None = None) -> None:
        super().__init__(options, outlook)
        self._stretch = self.options.stretch

    def key(self, job: Job, now: float) -> Key:
        request = job.request
        service = self.outlook.service_s(request, job.delivered)
        return (request.arrived + self._stretch * service / weight_of(request.priority), job.seq)
