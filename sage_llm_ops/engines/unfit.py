"""What engines themselves would not refuse in a sentence, or not at all: a negative id crashes a step."""

from __future__ import annotations

from collections.abc import Sequence

from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.plans import PlanNode


def unfit(node: PlanNode, ids: Sequence[int], can: Capabilities, vocabulary: int) -> str | None:
    """Why an engine with a model of this vocabulary cannot run the node; None where it can."""
    if node.kind != "fused":
        return f"node kind {node.kind!r}: this engine runs 'fused' nodes"
    if node.task not in can.tasks:
        return f"task {node.task!r}: this worker's model offers {', '.join(can.tasks)}"
    if node.lora and node.lora not in can.adapters:
        return (
            f"adapter {node.lora!r}: this worker has {', '.join(can.adapters) or 'none'}; "
            "name it in its lora_modules"
        )
    if not ids:
        return "the prompt is empty: send at least one token"
    wrong = next((token for token in ids if not 0 <= token < vocabulary), None)
    if wrong is not None:
        return f"token id {wrong} is outside the vocabulary of {vocabulary}"
    room = can.max_model_len - (node.task == "generate")
    if len(ids) > room:
        return (
            f"the prompt has {len(ids)} tokens, this worker takes {room} "
            f"(max_model_len {can.max_model_len}): shorten it"
        )
    return None
