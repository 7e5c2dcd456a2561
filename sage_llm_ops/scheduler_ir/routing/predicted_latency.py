"""Where it costs least time, its own and that of those it would disturb."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar

import msgspec
import numpy as np

from sage_llm_ops.scheduler_ir.routing.base import Choice, Costs, Routing, Rows, least
from sage_llm_ops.scheduler_ir.routing.held import held
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView

SHORT = 512
"""See `cost_model/step.py`."""


class PredictedLatencyOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How often computing counts that another worker's cache would have spared, besides once; and what
    bringing KV from another worker costs, where workers can."""

    again: float = 6.0
    kv_bytes_per_token: int = 131_072
    link_latency_ms: float = 1.0
    link_gb_per_s: float = 25.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.again < inf:
            raise ValueError(f"again={self.again!r} must be 0 or more, and finite")
        if self.kv_bytes_per_token < 1:
            raise ValueError(f"kv_bytes_per_token={self.kv_bytes_per_token} must be at least 1")
        if not (self.link_latency_ms >= 0.0 and self.link_gb_per_s > 0.0):
            raise ValueError(
                f"link_latency_ms={self.link_latency_ms!r} must be 0 or more and "
                f"link_gb_per_s={self.link_gb_per_s!r} above 0"
            )


class PredictedLatency(Routing):
    """argmin of milliseconds:

        queue          prefill that the worker's nodes still have before them
      + fetch          of what another worker holds, where that is quicker than to compute it
      + prefill        of what is then left of the prompt
      + again          `again` times what of that prefill the best holder would not have to do, as far
                       as it is of a beginning that is this request's alone
      + decode         its own tokens, at the pace of the batch it would join
      + interference   what running decodes lose to it, the prefill's steps and the slower pace, for
                       the part of the worker's slots that they hold

    An hour of a whole worker that stalls counts like an hour of waiting; counted for each decode
    instead, requests would queue for seconds to spare many others a moment (measured: worse at 0.95 of
    capacity). What is computed although the fleet has it is lost to whoever comes next, and its copy
    takes the place of something that only this worker has: if each counted its own time alone, all
    would be slower (docs/adr/0009). Not so a beginning that many share: its copies serve them all.
    Coefficients are the workers' classes' (`cost_model`); strangers all count alike.
    """

    name: ClassVar[str] = "predicted_latency"
    unit: ClassVar[str] = "ms"
    predicts: ClassVar[bool] = True
    Options = PredictedLatencyOptions

    def choose(self, offer: Offer, fleet: FleetView, rows: Rows) -> Choice:
        costs = self.costs(offer, fleet, rows)
        return Choice(least(costs, fleet, rows), costs, "least predicted time")

    def costs(self, offer: Offer, fleet: FleetView, rows: Rows) -> Costs:
        """Milliseconds for each row."""
        job = offer.job
        request = job.request
        length = request.n_prompt + job.delivered
        out = request.max_tokens - job.delivered if request.task == "generate" else 0
        ms = fleet.traits.ms[:, rows]
        running = fleet.running[rows]
        fetch: Any = 0.0
        again: Any = 0.0
        if offer.hits:
            there = np.minimum(held(offer, fleet, rows), length - 1)
            if fleet.traits.fetches[rows].any():
                there, fetch = self._fetched(fleet, rows, ms, there, length)
            prefill, own, spared = prefills(ms, length, there, offer.shared)
            again = self.options.again * (own - spared)
        else:
            prefill = prefill_of(ms, length, 0)
        stalled = running / fleet.slots[rows]
        slower = ms[5] + ms[6] * (length + 0.5 * out)
        pace = ms[4] + ms[5] * running + ms[6] * fleet.tokens[rows] + slower
        costs: Costs = (
            fleet.work_us[rows] * 1e-3
            + fetch
            + prefill * (1.0 + stalled)
            + again
            + out * (pace + slower * stalled)
        )
        return costs

    def _fetched(
        self, fleet: FleetView, rows: Rows, ms: Costs, there: Costs, length: int
    ) -> tuple[Costs, Costs]:
        """What each row would have after fetching, and the time of that; unchanged where
        recomputing is quicker."""
        most = np.full_like(there, there.max())
        options = self.options
        per_token = options.kv_bytes_per_token / (options.link_gb_per_s * 1e6)
        time = options.link_latency_ms + (most - there) * per_token
        saved = prefill_of(ms, length - there, there) - prefill_of(ms, length - most, most)
        better = fleet.traits.fetches[rows] & (time < saved)
        return np.where(better, most, there), np.where(better, time, 0.0)


def prefills(ms: Costs, length: int, there: Costs, shared: int) -> Costs:
    """Prefill time behind what each row has; behind what it has or many share; and behind what the best
    of them has. All in one: three calls would cost a decision ten microseconds more."""
    cached = np.empty((3, there.size))
    cached[0] = there
    cached[2] = most = there.max()
    np.minimum(np.maximum(there, shared), most, out=cached[1])
    return prefill_of(ms, length - cached, cached)


def prefill_of(ms: Costs, new: Any, cached: Any) -> Costs:
    """Prefill time of `new` tokens behind `cached`, one number a row."""
    short = np.minimum(new, SHORT) if isinstance(new, np.ndarray) else min(new, SHORT)
    time: Costs = np.maximum(
        ms[0] + ms[1] * new + ms[2] * short + ms[3] * (new * (2 * cached + new)), 0.0
    )
    return time


def behind(offer: Offer, fleet: FleetView, rows: Rows) -> Any:
    """Rows whose queue of prefills is longer than the shortest by more than this prompt's whole
    prefill: by more than any reuse there could win. Never all of them."""
    work = fleet.work_us[rows] * 1e-3
    length = offer.job.request.n_prompt + offer.job.delivered
    return work - work.min() > prefill_of(fleet.traits.ms[:, rows], length, 0)
