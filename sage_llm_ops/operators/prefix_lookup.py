"""PrefixLookup: which worker already holds how much of the prompt."""

from __future__ import annotations

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.types.events import Broken, Offer


class PrefixLookup(Operator):
    """Asks the plane's prefix view; without an index the answer is None, and the ledger says so."""

    name = "prefix_lookup"
    takes = {Offer: "offer"}
    emits = (Offer,)
    passes = (Broken,)

    def offer(self, event: Offer) -> Emitted:
        hits = self.plane.prefix.match(event.job.request)
        event.hits = None if hits is None else dict(hits)
        return event
