"""What a worker is asked to run."""

from __future__ import annotations

from typing import Any

import msgspec

from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.requests import SamplingParams


class PlanNode(msgspec.Struct, gc=False):
    """One step of a request's plan, bound to a device. A plan has one node, `fused`, for now."""

    id: NodeId
    request: RequestId
    worker: str
    attempt: int
    kind: str = "fused"
    tokens: bytes = b""
    """Prompt, and on a continued attempt the tokens already delivered, as int32."""
    n_tokens: int = 0
    offset: int = 0
    """Offset in the caller's stream of the first token this attempt will make."""
    sampling: SamplingParams = SamplingParams()
    task: str = "generate"
    model: str = ""
    lora: str = ""
    """The adapter of that name, where `model` names one of the worker's adapters."""
    trace: str = ""
    """W3C `traceparent`; empty: it is not traced."""
    blocks: tuple[int, ...] = ()
    block_size: int = 0
    untokenised: str | list[dict[str, Any]] | None = None
    """Text, or messages, in place of `tokens`, where the plane has no tokenizer (`http` only)."""
