"""vLLM through the control plane beside vLLM alone."""

from __future__ import annotations

import gc
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count

from benchmarks.batches import Shape, sampling
from benchmarks.metric import Metric, percentile
from benchmarks.straight import Straight, straight
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.requests import RequestMetadata

WORKLOAD = """\
128 requests at once, greedy, to the last token: 8 shared prefixes of 64 tokens, prompts of 65 to
256, 32 to 64 tokens out, a 4.5M-parameter Llama with random weights on the CPU. Through the plane:
ControlPlane.submit with token ids, one worker process (core inproc) and back to every result with
its text. Straight: an LLMEngine with the same settings and environment in a child process of its
own, all requests added, stepped to the end, token ids collected. Every batch has prompts of its
own, so no prefix is known from an earlier one; lengths are always the same.
A round is straight, plane and straight again, in rotating order; n counts rounds.
throughput_ratio: straight's seconds / the plane's. aa_p10: 10th percentile of straight's seconds /
straight's again, the noise of this machine. outputs_identical: 1 if every output of every round is
token for token that of the straight engine. control_cpu_us_*: CPU time of the plane's process."""

MODEL = "tiny"
OPTIONS = {"core": "inproc", "max_model_len": 512, "block_size": 32, "max_num_seqs": 32}


@dataclass(slots=True)
class Round:
    """Seconds each way, the plane's CPU seconds, and whether the outputs agreed."""

    plane: float
    control: float
    straight: float
    again: float
    identical: bool


SIZES = {"ci": (10, Shape()), "full": (30, Shape())}


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(rounds: int, shape: Shape) -> dict[str, Metric]:
    """All metrics of the suite."""
    options = {**OPTIONS, "model": str(tiny_model())}
    instance = ExecutionInstance("w0", model_name=MODEL, engine="vllm", options=options)
    alone = straight({**options, "served_model_name": MODEL}, shape)
    return metrics_of(compare(instance, alone, shape, rounds), shape)


def compare(
    instance: ExecutionInstance,
    alone: AbstractContextManager[Straight],
    shape: Shape,
    rounds: int,
) -> list[Round]:
    """Rounds of an engine alone and the same engine as the one instance of a plane."""
    plane = ControlPlane(serving(instances=(instance,)))
    try:
        # Side by side, since loading takes longer than measuring.
        with alone as engine:
            plane.start()
            return _rounds(plane, engine, shape, rounds)
    finally:
        plane.stop(5.0)


def _rounds(plane: ControlPlane, engine: Straight, shape: Shape, rounds: int) -> list[Round]:
    seeds = count()
    for _ in range(2):  # first batches pay for what is loaded or compiled on demand
        seed = next(seeds)
        through(plane, shape, seed)
        engine.run(seed)
    found = []
    for turn in range(rounds):
        seed, other = next(seeds), next(seeds)
        one = Round(0.0, 0.0, 0.0, 0.0, False)
        ours: list[list[int]] = []
        theirs: list[list[int]] = []
        for step in range(3):
            which = (turn + step) % 3
            if which == 0:
                one.straight, theirs = engine.run(seed)
            elif which == 1:
                one.plane, one.control, ours = through(plane, shape, seed)
            else:
                one.again, _ = engine.run(other)
        one.identical = ours == theirs
        found.append(one)
    return found


def through(plane: ControlPlane, shape: Shape, seed: int) -> tuple[float, float, list[list[int]]]:
    """Seconds, CPU seconds of this process, outputs."""
    batch = shape.batch(seed)
    gc.collect()
    cpu, began = time.process_time(), time.perf_counter()
    handles = [
        plane.submit(RequestMetadata(prompt_token_ids=ids, sampling_params=sampling(number)))
        for ids, number in batch
    ]
    results = [handle.result(120.0) for handle in handles]
    spent, used = time.perf_counter() - began, time.process_time() - cpu
    return spent, used, [list(result.token_ids) for result in results]


def metrics_of(found: list[Round], shape: Shape) -> dict[str, Metric]:
    """From the rounds of one measurement."""
    tokens = sum(number for _, number in shape.batch(0))
    aa = [r.straight / r.again for r in found]
    return {
        "throughput_ratio": Metric.of([r.straight / r.plane for r in found], "ratio"),
        "aa_p10": Metric(percentile(aa, 0.1), "ratio", len(aa), min(aa), max(aa)),
        "outputs_identical": Metric.of(
            [float(all(r.identical for r in found))], "bool", len(found)
        ),
        "control_cpu_us_per_request": Metric.of(
            [r.control / shape.requests * 1e6 for r in found], "us"
        ),
        "control_cpu_us_per_token": Metric.of([r.control / tokens * 1e6 for r in found], "us"),
    }
