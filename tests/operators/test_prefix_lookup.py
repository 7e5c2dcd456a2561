"""PrefixLookup: what the view knows stands in the offer and in the ledger."""

from __future__ import annotations

from sage_llm_ops.operators.plane import NobodyKnows, Plane
from sage_llm_ops.operators.prefix_lookup import PrefixLookup, PrefixLookupOptions
from sage_llm_ops.pipeline.replay import NoHands, ReplaySource
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import RequestId, WorkerId
from sage_llm_ops.types.requests import Request, SamplingParams


class Knows(NobodyKnows):
    def match(self, request: Request, now: float) -> dict[WorkerId, int]:
        return {WorkerId("w0"): request.n_prompt}

    @property
    def shared(self) -> int:
        return 3


def test_hits_or_none() -> None:
    request = Request(RequestId("a"), "m", b"", 7, SamplingParams())
    for view, hits, shared in ((None, None, 0), (Knows(), {"w0": 7}, 3)):
        plane = Plane(ReplaySource(iter(())), NoHands(), Ledger(), view)
        offer = Offer(1, 0.0, Job(request, 1))
        assert PrefixLookup(plane, PrefixLookupOptions(), "prefix_lookup").offer(offer) is offer
        assert (offer.hits, offer.shared) == (hits, shared)
