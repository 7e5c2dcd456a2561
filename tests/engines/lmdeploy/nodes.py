"""What the tests in LMDeploy's environment share: nodes, and an engine stepped to its end."""

from __future__ import annotations

from sage_llm_ops.engines.base import BaseEngine
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.tiny_model import VOCAB
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import EngineEvent, Tokens

GREEDY = SamplingParams(max_tokens=12, temperature=0.0)


def node(
    number: int,
    prompt: list[int],
    sampling: SamplingParams = GREEDY,
    *,
    offset: int = 0,
    task: str = "generate",
    lora: str = "",
) -> PlanNode:
    return PlanNode(
        NodeId(number),
        RequestId("same"),
        "w",
        1,
        tokens=pack(prompt),
        n_tokens=len(prompt),
        offset=offset,
        sampling=sampling,
        task=task,
        lora=lora,
    )


def run(engine: BaseEngine, *nodes: PlanNode) -> dict[int, list[EngineEvent]]:
    """The events of each node, until the engine has nothing left to do."""
    events: dict[int, list[EngineEvent]] = {each.id: [] for each in nodes}
    for each in nodes:
        engine.submit(each)
    while engine.busy:
        for event in engine.step():
            events[event.node].append(event)
    return events


def ids(events: list[EngineEvent]) -> list[int]:
    return [token for event in events if isinstance(event, Tokens) for token in event.ids]


def prompt(salt: int, n: int = 20) -> list[int]:
    return [10 + (salt * 977 + k * 7 + k * k % 13) % (VOCAB - 20) for k in range(n)]
