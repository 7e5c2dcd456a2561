"""The cost model against a live vLLM worker: the time to a first token, told before it is asked for."""

from __future__ import annotations

import random

from benchmarks.metric import Metric, percentile
from sage_llm_ops.core import ControlPlane, serving
from sage_llm_ops.cost_model import prefill_ms
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.requests import RequestMetadata

WORKLOAD = """\
One vLLM worker process (core inproc) with a 4.5M-parameter Llama with random weights on the CPU; one
request at a time, prompts of 16 to 899 random tokens, no prefix known. The worker tells its steps,
the plane's cost model learns from them; there is no prior for such a machine. After 200 requests the
TTFT of each of 200 more is predicted from what was learnt before it, as the routing does.
ttft_median_error: |predicted / measured - 1|, its median (min and max: 10th and 90th percentile; n
counts predictions). constant_median_error: the same of the best that one number for all could do, the
median TTFT of the first 200. steps_median_error: what the model itself reports of its latest steps."""

OPTIONS = {"max_model_len": 1024, "max_num_seqs": 16, "kv_cache_memory_bytes": 64 << 20}
SIZES = {"ci": 200, "full": 1_000}


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(count: int) -> dict[str, Metric]:
    """All metrics of the suite; as many requests to learn from as to predict."""
    rng = random.Random(4)
    options = {**OPTIONS, "model": str(tiny_model())}
    plane = ControlPlane(serving(), default_engine="vllm")
    plane.register(ExecutionInstance("w0", model_name="tiny", options=options))
    try:
        plane.start()
        known = [_ask(plane, _prompt(rng)) for _ in range(count)]
        errors, constant = [], []
        usual = percentile(known, 0.5)
        for _ in range(count):
            prompt = _prompt(rng)
            coefficients = plane.pipeline.plane.fleet.traits.ms[:, 0].copy()
            measured = _ask(plane, prompt)
            errors.append(abs(prefill_ms(coefficients, len(prompt)) / measured - 1.0))
            constant.append(abs(usual / measured - 1.0))
        (row,) = plane.pipeline.plane.costs.report()
    finally:
        plane.stop(5.0)
    return {
        "ttft_median_error": _spread(errors),
        "constant_median_error": _spread(constant),
        "steps_median_error": Metric.of([row["median_error"]], "share", row["steps"]),
    }


def _prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(10, 200) for _ in range(rng.randrange(16, 900))]


def _ask(plane: ControlPlane, prompt: list[int]) -> float:
    """Milliseconds to its first token."""
    sampling = {"max_tokens": 3, "temperature": 0.0, "ignore_eos": True}
    request = RequestMetadata(prompt_token_ids=prompt, sampling_params=sampling)
    ttft = plane.submit(request).result(60.0).timings.ttft_s
    assert ttft is not None
    return ttft * 1e3


def _spread(errors: list[float]) -> Metric:
    low, middle, high = (percentile(errors, share) for share in (0.1, 0.5, 0.9))
    return Metric(middle, "share", len(errors), low, high)
