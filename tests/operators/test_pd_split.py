"""PDSplit: the plan's shape, with its reason."""

from __future__ import annotations

import pytest

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.pd_split import PDSplit, PDSplitOptions
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.types.errors import UnknownName
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request, SamplingParams


def test_never_is_one_fused_node() -> None:
    request = Request(RequestId("a"), "m", b"", 7, SamplingParams())
    offer = Offer(1, 0.0, Job(request, 1))
    PDSplit(None, PDSplitOptions(), "pd_split").offer(offer)
    assert (offer.kinds, offer.split_reason) == (("fused",), "pd_off")


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"'sometimes'.*known: never"):
        PDSplit(None, PDSplitOptions("sometimes"), "pd_split")
    assert check(serving(), OPERATORS)
