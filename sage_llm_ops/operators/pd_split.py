"""PDSplit: whether prefill and decode run on one worker or two."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.operators.base import Emitted, Operator, read_options
from sage_llm_ops.scheduler_ir import SPLITTERS, SeparatorOptions
from sage_llm_ops.types.errors import UnknownName
from sage_llm_ops.types.events import Broken, Offer


class PDSplitOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`policy`: one of the registered splitters; `options`: see `SeparatorOptions`."""

    policy: str = "never"
    options: dict[str, Any] = {}


class PDSplit(Operator):
    """Gives the offer its plan's node kinds and the reason for them."""

    name = "pd_split"
    takes = {Offer: "offer"}
    emits = (Offer,)
    passes = (Broken,)
    Options = PDSplitOptions

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        kind = SPLITTERS.get(options.policy)
        if kind is None:
            raise UnknownName("PD policy", options.policy, SPLITTERS, key="policy")
        owner = f"PD policy {options.policy!r}"
        self.splitter = kind(read_options(SeparatorOptions, options.options, owner=owner))

    def offer(self, event: Offer) -> Emitted:
        found = self.splitter.split(event, self.plane.fleet)
        event.kinds, event.split_reason, ms, pooled = found
        if pooled:
            event.pooled, event.transfer_s = True, ms / 1e3
        return event
