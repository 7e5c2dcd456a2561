"""An operator: how many tokens each tenant was given."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from sage_llm_ops.operators import Operator
from sage_llm_ops.operators.base import Emitted
from sage_llm_ops.types.events import Outcome


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pipeline's file may say next to `use`."""

    count_prompt: bool = False


class TenantTokens(Operator):
    """Stands before `deliver`, sees every end once, and lets it pass."""

    name = "tenant_tokens"
    takes = {Outcome: "outcome"}
    emits = (Outcome,)
    Options = Options

    def __init__(self, plane: Any, options: Any, identity: str) -> None:
        super().__init__(plane, options, identity)
        self.tokens: Counter[str] = Counter()

    def outcome(self, event: Outcome) -> Emitted:
        request, made = event.job.request, event.job.delivered
        self.tokens[request.tenant] += made + request.n_prompt * self.options.count_prompt
        return event
