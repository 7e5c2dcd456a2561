"""One request through an engine that nobody hosts: what `generate`, `chat` and `embed` stand on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.types.errors import CapabilityError, IntegrityError, failure
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.results import RequestResult, Timings, Usage
from sage_llm_ops.types.wire import Accepted, Done, Failed, Tokens

if TYPE_CHECKING:
    from sage_llm_ops.engines.base import BaseEngine

_numbers = itertools.count(1)


def run_one(
    engine: BaseEngine, ids: Sequence[int], sampling: SamplingParams, *, task: str = "generate"
) -> RequestResult:
    """Submit one node and step until it ends; raises what its failure code names."""
    if task not in engine.capabilities.tasks:
        raise CapabilityError(
            f"engine {engine.name!r} offers {', '.join(engine.capabilities.tasks)}, not {task!r}"
        )
    number = next(_numbers)
    request = f"{engine.name}-{number}"
    node = PlanNode(
        id=NodeId(number),
        request=RequestId(request),
        worker="standalone",
        attempt=1,
        tokens=pack(ids),
        n_tokens=len(ids),
        sampling=sampling.checked(),
        task=task,
    )
    arrived = time.monotonic()
    accepted: float | None = None
    first: float | None = None
    made: list[int] = []
    engine.submit(node)
    while engine.busy:
        for event in engine.step():
            if event.node != node.id:
                continue
            if isinstance(event, Accepted):
                accepted = time.monotonic()
            elif isinstance(event, Tokens):
                first = first or time.monotonic()
                made.extend(event.ids)
            elif isinstance(event, Failed):
                raise failure(event.code, event.message, request, tuple(made))
            elif isinstance(event, Done):
                engine.cache_changes()  # kept until they are asked for, and nobody else will
                timings = Timings(arrived, arrived, accepted, first, time.monotonic())
                return _result(engine, request, made, event, timings)
    raise IntegrityError(f"engine {engine.name!r} became idle without ending request {request!r}")


def _result(
    engine: BaseEngine, request: str, made: list[int], done: Done, timings: Timings
) -> RequestResult:
    try:
        text = engine.tokenizer.decode(made)
    except CapabilityError:
        text = ""  # token ids went in, token ids come out
    return RequestResult(
        request_id=request,
        text=text,
        token_ids=tuple(made),
        finish_reason=done.finish_reason,
        usage=Usage(done.n_prompt, done.n_tokens, done.cached),
        timings=timings,
        instance_id="standalone",
        embedding=None if done.embedding is None else tuple(done.embedding),
    )
