"""LMDeploy through the control plane beside LMDeploy alone."""

from __future__ import annotations

from benchmarks.batches import Shape
from benchmarks.metric import Metric
from benchmarks.straight import straight
from benchmarks.suites.overhead import MODEL, compare, metrics_of
from sage_llm_ops.testing.lmdeploy_cpu import CPU_LMDEPLOY, lmdeploy_python
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.instances import ExecutionInstance

WORKLOAD = """\
The batches of suite overhead, half as large: 64 requests at once, greedy, to the last token, 8
shared prefixes of 64 tokens, prompts of 65 to 256, 32 to 64 tokens out, a 4.5M-parameter Llama with
random weights. Both sides run LMDeploy's PyTorch engine on the CPU device of our tests, in
LMDeploy's environment. Through the plane: ControlPlane.submit with token ids, one worker process
and back to every result with its text. Alone: the same engine with the same settings in a child
process of its own, one async_stream_infer for each request, all at once, token ids collected.
A round is alone, plane and alone again, in rotating order; n counts rounds.
lmdeploy_throughput_ratio: seconds alone / the plane's. aa_p10: 10th percentile of seconds alone /
alone again, the noise of this machine. outputs_identical: 1 if every output of every round is token
for token that of the engine alone. control_cpu_us_*: CPU time of the plane's process."""

OPTIONS = {"session_len": 512, "block_size": 32, "max_batch_size": 32, "num_gpu_blocks": 1024}
SIZES = {"ci": (10, Shape(requests=64)), "full": (30, Shape(requests=64))}


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(rounds: int, shape: Shape) -> dict[str, Metric]:
    """All metrics of the suite."""
    python = lmdeploy_python()
    options = {**OPTIONS, "model": str(tiny_model())}
    instance = ExecutionInstance(
        "w0", model_name=MODEL, engine=CPU_LMDEPLOY, options={**options, "python": python}
    )
    alone = straight(options, shape, module="benchmarks.straight_lmdeploy", python=python)
    found = metrics_of(compare(instance, alone, shape, rounds), shape)
    return {"lmdeploy_throughput_ratio": found.pop("throughput_ratio"), **found}
