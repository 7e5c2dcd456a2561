"""PrefixLookup: which worker already holds how much of the prompt."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator
from sage_llm_ops.operators.plane import NobodyKnows
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.types.events import Broken, Offer


class PrefixLookupOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`learn`: from what workers report, and for those that report nothing from what they are sent
    (`all`), from reports alone, or not at all. At most `max_blocks` of each block size are kept in
    mind. What a worker was given counts as its own for `expect_s`, or until it has reported."""

    learn: Literal["all", "reports", "nothing"] = "all"
    max_blocks: int = 1 << 20
    expect_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.max_blocks < 1 << 31:
            raise ValueError(f"max_blocks={self.max_blocks} must be between 1 and 2147483647")
        if not self.expect_s > 0.0:
            raise ValueError(f"expect_s={self.expect_s} must be above 0")


class PrefixLookup(Operator):
    """Asks the plane's prefix view; where nobody tells anything the answer is None, and the ledger
    says so."""

    name = "prefix_lookup"
    takes = {Offer: "offer"}
    emits = (Offer,)
    passes = (Broken,)
    Options = PrefixLookupOptions

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        if options.learn != "nothing" and type(plane.prefix) is NobodyKnows:
            plane.prefix = PrefixFleet(
                max_blocks=options.max_blocks,
                expect_s=options.expect_s,
                believe=options.learn == "all",
            )

    def offer(self, event: Offer) -> Emitted:
        hits = self.plane.prefix.match(event.job.request, event.now)
        event.hits = None if hits is None else dict(hits)
        event.shared = self.plane.prefix.shared
        return event

    def check_integrity(self) -> None:
        """The view's blocks, holders and order fit together."""
        self.plane.prefix.check_integrity()
