"""What an engine's steps computed and how long they took, for the plane's cost model.

Seen from outside, by the host that calls `step`: a prompt was computed in the step that brings its
first token, and in those before it that brought nothing (a prompt in chunks; an engine whose core
answers one step late). Those add to the next sample. Steps after an idle moment are as good as any:
the clock runs only inside `step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Done, EngineEvent, Failed, Tokens

Sample = tuple[int, int, int, int, float]
KEPT = 32
"""Samples between two reports; of more, the first ones and every one with a prompt's end."""


@final
class StepSampler:
    """Fed with every node, event and duration; gives samples."""

    def __init__(self) -> None:
        self._lengths: dict[NodeId, int] = {}
        """Of running nodes: tokens in KV memory, negative until the first token came."""
        self._silent_ms = 0.0
        self._samples: list[Sample] = []

    def submitted(self, node: PlanNode) -> None:
        """The engine got it."""
        self._lengths[node.id] = -node.n_tokens

    def stepped(self, events: Sequence[EngineEvent], ms: float) -> None:
        """One call of `step`."""
        tokens = pairs = decodes = context = made = 0
        for event in events:
            if isinstance(event, Tokens):
                length = self._lengths.get(event.node)
                if length is None:
                    continue
                made += 1
                if length < 0:
                    new = max(1, -length - event.cached)
                    tokens += new
                    pairs += new * (2 * event.cached + new)
                    length = -length
                else:
                    decodes += 1
                    context += length
                self._lengths[event.node] = length + len(event.ids)
            elif isinstance(event, Done):
                length = self._lengths.pop(event.node, None)
                if length is not None and length < 0 and event.embedding is not None:
                    made, tokens, pairs = made + 1, tokens - length, pairs + length * length
            elif isinstance(event, Failed):
                self._lengths.pop(event.node, None)
        if not made:
            self._silent_ms += ms
            return
        if tokens or len(self._samples) < KEPT // 2:
            if len(self._samples) < KEPT:
                self._samples.append((tokens, pairs, decodes, context, ms + self._silent_ms))
        self._silent_ms = 0.0

    def forget(self) -> None:
        """The engine dropped all it held."""
        self._lengths.clear()
        self._silent_ms = 0.0

    def take(self) -> tuple[Sample, ...]:
        """What was collected since the last call."""
        samples, self._samples = tuple(self._samples), []
        return samples
