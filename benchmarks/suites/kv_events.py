"""What it costs a vLLM worker, and its plane, to tell what becomes of its prefix cache."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from itertools import count, permutations
from pathlib import Path

from benchmarks.batches import Shape
from benchmarks.metric import Metric, percentile
from benchmarks.suites.overhead import MODEL, OPTIONS, through
from benchmarks.toggled import FLAG
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance

WORKLOAD = """\
Batches of 32 requests as in suite `overhead`, through one plane with one vLLM worker process (core
inproc), which tells what becomes of its prefix cache during one batch and does not during another. A
round is a batch told of, one not told of and another not told of, in rotating order; n counts rounds.
throughput_ratio: seconds not told / seconds told. aa: not told / the other not told, the noise of this
machine; aa_p10 its 10th percentile. control_cpu_us_more: CPU time of the plane's process for a request
told of, less that for one not told of. blocks_told: blocks for each request that the plane heard of."""

SHAPE = Shape(requests=32)
SIZES = {"ci": 36, "full": 180}


@dataclass(slots=True)
class Way:
    """A number for each round."""

    seconds: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset], SHAPE)


def measure(rounds: int, shape: Shape) -> dict[str, Metric]:
    """All metrics of the suite."""
    options = {**OPTIONS, "model": str(tiny_model())}
    engine = "benchmarks.toggled:ToggledVllm"
    instance = ExecutionInstance("w0", model_name=MODEL, engine=engine, options=options)
    ways = {"told": Way(), "not": Way(), "again": Way()}
    orders = list(permutations(ways))
    seeds = count()
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder, "tells")
        flag.write_text("0")
        os.environ[FLAG] = str(flag)
        plane = ControlPlane(serving(instances=(instance,)))
        try:
            plane.start()
            for _ in range(2):  # what is loaded or compiled on demand
                through(plane, shape, next(seeds))
            for number in range(rounds):
                for name in orders[number % len(orders)]:
                    flag.write_text("1" if name == "told" else "0")
                    spent, used, _ = through(plane, shape, next(seeds))
                    ways[name].seconds.append(spent)
                    ways[name].control.append(used)
            heard = _heard(plane)
        finally:
            plane.stop(5.0)
            del os.environ[FLAG]
    return _metrics(ways, heard / (rounds * shape.requests), shape)


def _heard(plane: ControlPlane) -> int:
    view = plane.pipeline.plane.prefix
    assert isinstance(view, PrefixFleet)
    told = view.told(WorkerId("w0"))
    assert told is not None
    return told.blocks_in


def _metrics(ways: dict[str, Way], heard: float, shape: Shape) -> dict[str, Metric]:
    told, quiet, again = ways["told"], ways["not"], ways["again"]

    def over(one: Way, other: Way) -> list[float]:
        return [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]

    aa = over(quiet, again)
    more = [
        (a - b) / shape.requests * 1e6 for a, b in zip(told.control, quiet.control, strict=True)
    ]
    return {
        "throughput_ratio": Metric.of(over(quiet, told), "ratio"),
        "aa": Metric.of(aa, "ratio"),
        "aa_p10": Metric(percentile(aa, 0.1), "ratio", len(aa), min(aa), max(aa)),
        "control_cpu_us_more": Metric.of(more, "us"),
        "blocks_told": Metric.of([heard], "blocks"),
    }
