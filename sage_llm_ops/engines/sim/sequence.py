"""One node inside the simulated engine."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import final

from sage_llm_ops.engines.sim.cache import Key
from sage_llm_ops.engines.sim.tokens import TokenStream
from sage_llm_ops.types.plans import PlanNode


class State(IntEnum):
    """Where a sequence stands."""

    WAITING = 0
    PREFILL = 1
    DECODE = 2
    ENDED = 3


@final
class SimSequence:
    """Its place in the schedule. While it decodes it has made `made + (steps - base)` tokens."""

    __slots__ = (
        "arrives_full",
        "base",
        "cached",
        "cancelled",
        "chunk",
        "computed",
        "held",
        "ids",
        "keys",
        "made",
        "node",
        "order",
        "out",
        "private",
        "prompt",
        "published",
        "reason",
        "state",
        "stream",
    )

    def __init__(self, node: PlanNode, keys: Sequence[Key], out: int, reason: str) -> None:
        self.node = node
        self.keys = keys
        """Of the prompt's full blocks; empty where the prefix cache is off."""
        self.prompt = node.n_tokens
        self.out = out
        """Tokens it will make in the end; 0 for an embedding."""
        self.reason = reason
        self.state = State.WAITING
        self.order = 0
        """Number of its latest admission: who is older."""
        self.computed = 0
        """Tokens in KV memory, while it prefills."""
        self.chunk = 0
        """Of them, those that the running step computes."""
        self.made = 0
        self.base = 0
        """Step count at which `made` was right."""
        self.held: list[Key] = []
        self.private = 0
        self.published = 0
        """How many of `keys` were offered to the cache."""
        self.cached = -1
        """Prompt tokens given by the cache at the first admission; -1 before."""
        self.arrives_full = node.kind == "decode"
        """Its KV came with it: nothing of the prompt is computed, unless it is preempted."""
        self.cancelled = False
        self.stream: TokenStream | None = None
        self.ids: list[int] | None = None
        """The whole answer, where finding its end took making it."""

    @property
    def blocks(self) -> int:
        """KV blocks it holds."""
        return len(self.held) + self.private

    @property
    def total(self) -> int:
        """Tokens that must be in KV memory before it makes its next one."""
        return self.prompt + self.made
