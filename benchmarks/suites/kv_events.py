"""What it costs a vLLM worker, and its plane, to tell what becomes of its prefix cache."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count

from benchmarks.batches import Shape
from benchmarks.metric import Metric, percentile
from benchmarks.suites.overhead import MODEL, OPTIONS, through
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance

WORKLOAD = """\
Batches of 32 requests as in suite `overhead`, through three planes with one vLLM worker process each
(core inproc): one whose worker tells (`kv_events`, the default), one whose worker does not, and
another like the second. A round sends one batch through each, in rotating order; n counts rounds.
throughput_ratio: seconds without / seconds with. aa: without / the other without, the noise of this
machine and of what differs from process to process; aa_p10 its 10th percentile. control_cpu_us_more:
CPU time of the plane's process for a request with, less that without. blocks_told: blocks for each
request that the plane heard of. outputs_identical: 1 if all three answered token for token alike."""

SHAPE = Shape(requests=32)
PLANES = {"on": True, "off": False, "again": False}
SIZES = {"ci": 15, "full": 90}


@dataclass(slots=True)
class Way:
    """What one plane did, a number for each round."""

    seconds: list[float] = field(default_factory=list)
    control: list[float] = field(default_factory=list)
    answers: list[list[list[int]]] = field(default_factory=list)


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset], SHAPE)


def measure(rounds: int, shape: Shape) -> dict[str, Metric]:
    """All metrics of the suite."""
    ways = {name: Way() for name in PLANES}
    seeds = count()
    with ExitStack() as stack:
        planes = {name: _plane(stack, told=told) for name, told in PLANES.items()}
        for plane in planes.values():
            plane.start()
        for seed in (next(seeds), next(seeds)):  # what is loaded or compiled on demand
            for plane in planes.values():
                through(plane, shape, seed)
        for number in range(rounds):
            seed = next(seeds)
            order = list(planes)[number % 3 :] + list(planes)[: number % 3]
            for name in order:
                spent, used, answers = through(planes[name], shape, seed)
                ways[name].seconds.append(spent)
                ways[name].control.append(used)
                ways[name].answers.append(answers)
        told = _told(planes["on"]) / ((rounds + 2) * shape.requests)
    return _metrics(ways, told, shape)


def _plane(stack: ExitStack, *, told: bool) -> ControlPlane:
    options = {**OPTIONS, "model": str(tiny_model()), "kv_events": told}
    instance = ExecutionInstance("w0", model_name=MODEL, engine="vllm", options=options)
    plane = ControlPlane(serving(instances=(instance,)))
    stack.callback(plane.stop, 5.0)
    return plane


def _told(plane: ControlPlane) -> int:
    view = plane.pipeline.plane.prefix
    assert isinstance(view, PrefixFleet)
    told = view.told(WorkerId("w0"))
    assert told is not None and not told.drops, told
    return told.blocks_in


def _metrics(ways: dict[str, Way], told: float, shape: Shape) -> dict[str, Metric]:
    on, off, again = ways["on"], ways["off"], ways["again"]

    def over(one: Way, other: Way) -> list[float]:
        return [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]

    aa = over(off, again)
    more = [(a - b) / shape.requests * 1e6 for a, b in zip(on.control, off.control, strict=True)]
    return {
        "throughput_ratio": Metric.of(over(off, on), "ratio"),
        "aa": Metric.of(aa, "ratio"),
        "aa_p10": Metric(percentile(aa, 0.1), "ratio", len(aa), min(aa), max(aa)),
        "control_cpu_us_more": Metric.of(more, "us"),
        "blocks_told": Metric.of([told], "blocks"),
        "outputs_identical": Metric.of(
            [float(on.answers == off.answers == again.answers)], "bool", len(aa)
        ),
    }
