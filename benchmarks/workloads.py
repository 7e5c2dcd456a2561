"""What several suites measure with: pipelines over simulated workers, requests, the trace."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.base import Worker
from sage_llm_ops.engines.registry import make_worker
from sage_llm_ops.pipeline.live import LivePipeline
from sage_llm_ops.pipeline.synthetic import generate_trace
from sage_llm_ops.pipeline.traces import TraceRequest, read_trace
from sage_llm_ops.testing.fleets import sim_instances
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.pipelines import PipelineSpec
from sage_llm_ops.types.requests import Request, SamplingParams

ROOT = Path(__file__).resolve().parent.parent
MODEL = "sim-model"
PROMPT_TOKENS = 1000
MOONCAKE = "mooncake_conversation_first30min.jsonl.zst"
AZURE = "azure_llm_conv_2023.csv.zst"

INSTANT: dict[str, Any] = {"timing": "instant", "prefix_cache": False}
"""An engine that has answered before `submit` returns."""


def sim_worker(instance: ExecutionInstance, pipeline: LivePipeline) -> Worker:
    """As the control plane makes them."""
    return make_worker(instance, pipeline.hands)


@contextmanager
def sim_pipeline(
    instances: int,
    *,
    slots: int | None = None,
    make: Callable[[ExecutionInstance, LivePipeline], Worker] = sim_worker,
    spec: PipelineSpec | None = None,
    **options: Any,
) -> Iterator[LivePipeline]:
    """A live pipeline over inline workers, its ledger in a file."""
    with tempfile.TemporaryDirectory(prefix="sage-llm-ops-bench-") as directory:
        ledger = os.path.join(directory, "ledger.jsonl")
        pipeline = LivePipeline(dataclasses.replace(spec or serving(), ledger=ledger))
        chosen = sim_instances(instances, model=MODEL, max_concurrency=slots, **options)
        workers = [make(instance, pipeline) for instance in chosen]
        pipeline.start()
        try:
            for worker in workers:
                pipeline.attach(worker)
                worker.start()
            yield pipeline
        finally:
            pipeline.stop(10.0)
            for worker in workers:
                worker.stop(1.0)


def requests(
    output_tokens: int, prompt_tokens: int = PROMPT_TOKENS, timeout_s: float | None = None
) -> Iterator[Request]:
    """Equal requests with ids of their own, without end."""
    tokens = np.arange(prompt_tokens, dtype="<i4").tobytes()
    sampling = SamplingParams(max_tokens=output_tokens, temperature=0.0)
    run = os.urandom(4).hex()
    for number in count():
        identity = RequestId(f"{run}-{number}")
        yield Request(identity, MODEL, tokens, prompt_tokens, sampling, timeout_s=timeout_s)


def trace(size: int) -> tuple[str, list[TraceRequest]]:
    """Mooncake's conversation trace where the data is at hand, else one in its likeness."""
    data = Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")
    path = data / MOONCAKE
    if path.is_file():
        return "Mooncake conversation trace", list(read_trace(path, size))
    return "synthetic trace", list(generate_trace(size, seed=1))


def azure(size: int) -> tuple[str, list[TraceRequest]]:
    """Azure's conversation trace where the data is at hand, else one of its lengths."""
    data = Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")
    path = data / AZURE
    if path.is_file():
        return "Azure conversation trace", list(read_trace(path, size))
    return "synthetic trace", list(generate_trace(size, seed=2, mean_prompt=1024, mean_output=210))
