"""Which of the rows with room a request may have at all, before a routing chooses among them."""

from __future__ import annotations

from typing import Any

from sage_llm_ops.scheduler_ir.routing.base import Costs, Rows
from sage_llm_ops.scheduler_ir.routing.predicted_latency import prefill_of
from sage_llm_ops.types.events import Job
from sage_llm_ops.types.protocols import FleetView

PREFILLING, DECODING = 1, 2
"""Of `fleet/traits.py`; rooms beside each other meet in numbers."""


def for_kind(fleet: FleetView, rows: Rows, kind: str) -> Rows:
    """Rows for a node of this kind. A whole request goes to a prefilling worker only where there is
    no other: its decode would slow down the prefills the worker is there for."""
    role = fleet.traits.role[rows]
    if kind == "prefill":
        return _those(rows, role == PREFILLING)
    if kind == "decode":
        return _those(rows, role == DECODING)
    others = rows[role != PREFILLING]
    return others if others.size else rows


def service_ms(
    fleet: FleetView, rows: Rows, job: Job, *, alone: bool = False
) -> tuple[Costs, Costs]:
    """Prefill and decode of a job on each row, at the pace of what runs there."""
    request = job.request
    n = request.n_prompt + job.delivered
    out = request.max_tokens - job.delivered if request.task == "generate" else 0
    ms = fleet.traits.ms[:, rows]
    others, tokens = (0, 0) if alone else (fleet.running[rows], fleet.tokens[rows])
    pace = ms[4] + ms[5] * (others + 1) + ms[6] * (tokens + n + 0.5 * out)
    return prefill_of(ms, n, 0), out * pace


def price(fleet: FleetView, rows: Rows, job: Job) -> Costs:
    """What it would cost on each row: the whole worker while it prefills, one slot of it after. Not
    a matter of the load, or a budget that is enough now would not be in a moment."""
    prefill, decode = service_ms(fleet, rows, job, alone=True)
    seconds = (prefill + decode / fleet.slots[rows]) / 1e3
    found: Costs = fleet.traits.price[rows] * seconds
    return found


def cheapest_in_time(fleet: FleetView, rows: Rows, job: Job, now: float) -> Rows:
    """Rows of the lowest price among those that meet the objective; all in time where prices are
    equal, and the fastest where none is in time."""
    prefill, decode = service_ms(fleet, rows, job)
    takes = fleet.work_us[rows] * 1e-3 + prefill + decode
    request = job.request
    if request.slo_ms is not None:
        left = request.slo_ms - (now - request.arrived) * 1e3
        in_time = takes <= left
        if not in_time.any():
            return _those(rows, takes == takes.min())
        rows = rows[in_time]
    prices = price(fleet, rows, job)
    return _those(rows, prices <= prices.min() * (1.0 + 1e-9))


def affordable(fleet: FleetView, rows: Rows, job: Job) -> Rows:
    """Rows within the request's budget."""
    budget = job.request.cost_budget
    if budget is None:
        return rows
    return _those(rows, price(fleet, rows, job) <= budget)


def _those(rows: Rows, mask: Any) -> Rows:
    found: Rows = rows[mask]
    return found
