"""The nodes an LMDeploy engine holds, and how its outputs become our events."""

from __future__ import annotations

from dataclasses import dataclass

from sage_llm_ops.engines.lmdeploy.core import Broken, Output, goes_on
from sage_llm_ops.engines.lmdeploy.stops import StopStrings
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Done, EngineEvent, Failed, Tokens

REFUSALS = {"INPUT_LENGTH_ERROR": "the prompt is longer than its session_len"}
"""Ends that the request is at fault for."""


@dataclass(slots=True)
class Held:
    """One node in the engine."""

    node: PlanNode
    stops: frozenset[int]
    strings: StopStrings | None
    made: int = 0
    cached: int = 0
    last: int = -1

    def done(self, reason: str) -> Done:
        return Done(self.node.id, reason, self.node.n_tokens, self.made, self.cached)


class NodeTable:
    """Every node leaves it once, with the event that ends it: a cancel that meets the natural end
    finds the table empty, and outputs of a node that left are dropped."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    @staticmethod
    def key(node: NodeId) -> str:
        """The node's, since a request may come back in another attempt."""
        return f"n{node}"

    def add(self, held: Held) -> str:
        key = self.key(held.node.id)
        self._held[key] = held
        return key

    def drop(self, node: NodeId) -> Held | None:
        return self._held.pop(self.key(node), None)

    def events(self, item: Output | Broken) -> list[EngineEvent]:
        """Of one output. Where a stop string ended the node, the engine still runs it."""
        held = self._held.get(item.key)
        if held is None:
            return []
        if isinstance(item, Broken):
            out: list[EngineEvent] = [broken(held.node, item.error)]
        else:
            out = _heard(held, item)
        if out and isinstance(out[-1], Done | Failed):
            del self._held[item.key]
        return out


def broken(node: PlanNode, error: Exception) -> Failed:
    """What it raised where nothing of the request should have made it."""
    return Failed(node.id, "engine_failed", f"LMDeploy failed on it: {error!r}")


def _heard(held: Held, output: Output) -> list[EngineEvent]:
    out: list[EngineEvent] = []
    found = held.strings.found(output.ids) if held.strings else None
    ids = output.ids[:found]
    if ids:
        if not held.made:
            held.cached = output.cached
        out.append(Tokens(held.node.id, held.node.offset + held.made, ids, held.cached))
        held.made += len(ids)
        held.last = ids[-1]
    if found is not None:
        out.append(held.done("stop"))
    elif not goes_on(output):
        out.append(_end(held, output.status))
    return out


def _end(held: Held, status: str) -> Done | Failed:
    if status == "FINISH":
        return held.done("stop" if held.last in held.stops else "length")
    if status in REFUSALS:
        return Failed(held.node.id, "invalid_request", f"LMDeploy refused it: {REFUSALS[status]}")
    message = f"LMDeploy ended it with {status} after {held.made} tokens"
    return Failed(held.node.id, "engine_failed", message)
