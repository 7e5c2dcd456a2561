"""What the candidates have of a prompt."""

from __future__ import annotations

import numpy as np

from sage_llm_ops.scheduler_ir.routing.base import Costs, Rows
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


def held(offer: Offer, fleet: FleetView, rows: Rows) -> Costs:
    """Prompt tokens that each row has already."""
    found = np.zeros(len(fleet.ids))
    for worker, tokens in (offer.hits or {}).items():
        row = fleet.rows.get(worker)
        if row is not None:
            found[row] = tokens
    known: Costs = found[rows]
    return known
