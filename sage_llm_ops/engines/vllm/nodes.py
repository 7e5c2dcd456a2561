"""The nodes a vLLM engine holds, and how vLLM's outputs become our events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage_llm_ops.engines.vllm.core import Rejected, is_refusal
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Done, EngineEvent, Failed, Tokens

REASONS = {"stop": "stop", "length": "length", "repetition": "stop"}
"""vLLM's finish reasons that are an ordinary end."""


@dataclass(slots=True)
class Held:
    """One node in the engine."""

    node: PlanNode
    made: int = 0
    cached: int = 0


class NodeTable:
    """Every node leaves it once, with the event that ends it: a cancel that meets the natural end
    finds the table empty, and outputs of a node that left are dropped."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    @staticmethod
    def key(node: NodeId) -> str:
        """vLLM's request id: the node's, since a request may come back in another attempt."""
        return f"n{node}"

    def add(self, node: PlanNode) -> str:
        key = self.key(node.id)
        self._held[key] = Held(node)
        return key

    def drop(self, node: NodeId) -> Held | None:
        return self._held.pop(self.key(node), None)

    def events(self, output: Any) -> list[EngineEvent]:
        """Of one vLLM output."""
        if isinstance(output, Rejected):
            held = self._held.pop(output.key, None)
            return [] if held is None else [rejected(held.node, output.error)]
        held = self._held.get(output.request_id)
        if held is None:
            return []
        if output.finished:
            del self._held[output.request_id]
        if held.node.task == "embed":
            return _embedded(held, output) if output.finished else []
        return _generated(held, output)


def rejected(node: PlanNode, error: Exception) -> Failed:
    """vLLM's own sentence for a request it cannot take, or broke on."""
    if is_refusal(error):
        return Failed(node.id, "invalid_request", f"vLLM refused it: {error}")
    return Failed(node.id, "engine_failed", f"vLLM failed on it: {error!r}")


def _generated(held: Held, output: Any) -> list[EngineEvent]:
    node, completion = held.node, output.outputs[0]
    out: list[EngineEvent] = []
    ids = list(completion.token_ids)
    if ids:
        if not held.made:
            held.cached = output.num_cached_tokens or 0
        out.append(Tokens(node.id, node.offset + held.made, ids, held.cached))
        held.made += len(ids)
    if output.finished:
        found = str(completion.finish_reason)
        reason = REASONS.get(found)
        if reason is None:
            message = f"vLLM ended it with {found!r} after {held.made} tokens"
            out.append(Failed(node.id, "engine_failed", message))
        else:
            out.append(Done(node.id, reason, node.n_tokens, held.made, held.cached))
    return out


def _embedded(held: Held, output: Any) -> list[EngineEvent]:
    node = held.node
    vector = [float(value) for value in output.outputs.data.flatten().tolist()]
    cached = getattr(output, "num_cached_tokens", 0) or 0
    return [Done(node.id, "stop", node.n_tokens, 0, cached, vector)]
