"""Two real vLLM workers, conversations: routing that knows prefixes beside round robin."""

from __future__ import annotations

import gc
import random
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import fmean

from benchmarks.batches import sampling
from benchmarks.metric import Metric
from sage_llm_ops.core.control_plane import ControlPlane
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.requests import RequestMetadata

WORKLOAD = """\
Conversations in closed loop, greedy: each begins with one of the system prompts (600 tokens each) and
has turns of 40 to 120 new tokens and 12 answered ones, every turn sent with all that was said. Three
planes, each over two vLLM worker processes (4.5M-parameter Llama on the CPU, core inproc): routing
predicted_latency, round_robin, and round_robin once more. Each round sends the same conversations
through all three, one after the other in rotating order; no round shares a token block with another.
cached_aware, cached_round_robin: prompt tokens that came out of a prefix cache over all prompt tokens.
ttft_ratio: mean TTFT with round_robin over that with predicted_latency; ttft_aa: round_robin over its
twin, the noise of this machine. outputs_identical: 1 if all three answered token for token alike.
one_prompt_skew: all conversations share one system prompt; uncached prompt tokens of the busier worker
over the mean. n counts rounds."""

MODEL = "tiny"
OPTIONS = {
    "core": "inproc",
    "max_model_len": 2048,
    "block_size": 32,
    "max_num_seqs": 16,
}
ROUTINGS = {"aware": "predicted_latency", "round_robin": "round_robin", "again": "round_robin"}
SYSTEM_TOKENS, ANSWER_TOKENS = 600, 12


@dataclass(frozen=True, slots=True)
class Shape:
    """`systems` of 1: everybody shares one system prompt."""

    systems: int = 4
    conversations: int = 12
    turns: int = 4
    clients: int = 3


@dataclass(slots=True)
class Result:
    """What one plane did with one round."""

    answers: dict[int, list[list[int]]] = field(default_factory=dict)
    ttft: list[float] = field(default_factory=list)
    prompt: int = 0
    cached: int = 0
    uncached: dict[str, int] = field(default_factory=dict)


SIZES = {"ci": (3, Shape()), "full": (8, Shape())}


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(rounds: int, shape: Shape) -> dict[str, Metric]:
    one = Shape(1, shape.conversations, shape.turns, shape.clients)
    with ExitStack() as stack:
        planes = {name: _plane(routing, stack) for name, routing in ROUTINGS.items()}
        for plane in planes.values():
            plane.start()
        for plane in planes.values():
            _round(plane, Shape(1, 2, 2, 2), 10_000)  # what is loaded or compiled on demand
        found, shared = [], []
        for number in range(rounds):
            order = list(planes)[number % 3 :] + list(planes)[: number % 3]
            made = {name: _round(planes[name], shape, number) for name in order}
            found.append(made)
            shared.append(_round(planes["aware"], one, 20_000 + number))
    return _metrics(found, shared)


def _plane(routing: str, stack: ExitStack) -> ControlPlane:
    options = {**OPTIONS, "model": str(tiny_model())}
    instances = tuple(
        ExecutionInstance(name, model_name=MODEL, engine="vllm", options=options)
        for name in ("w0", "w1")
    )
    plane = ControlPlane(serving(routing_strategy=routing, instances=instances))
    stack.callback(plane.stop, 5.0)
    return plane


def _round(plane: ControlPlane, shape: Shape, seed: int) -> Result:
    gc.collect()
    rng = random.Random(seed)
    systems = [_ids(rng, SYSTEM_TOKENS) for _ in range(shape.systems)]
    waiting = [
        (
            number,
            systems[number % shape.systems],
            [_ids(rng, rng.randint(40, 120)) for _ in range(shape.turns)],
        )
        for number in range(shape.conversations)
    ]
    result, lock = Result(), threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number, said, turns = waiting.pop(0)
            _converse(plane, number, said, turns, result, lock)

    clients = [threading.Thread(target=client) for _ in range(shape.clients)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return result


def _converse(
    plane: ControlPlane,
    number: int,
    said: list[int],
    turns: list[list[int]],
    result: Result,
    lock: threading.Lock,
) -> None:
    answers = []
    for turn in turns:
        said = said + turn
        metadata = RequestMetadata(
            prompt_token_ids=said, sampling_params=sampling(ANSWER_TOKENS), max_tokens=ANSWER_TOKENS
        )
        done = plane.submit(metadata).result(120.0)
        answers.append(list(done.token_ids))
        with lock:
            assert done.timings.ttft_s is not None
            result.ttft.append(done.timings.ttft_s)
            result.prompt += len(said)
            result.cached += done.usage.cached_tokens
            new = len(said) - done.usage.cached_tokens
            result.uncached[done.instance_id] = result.uncached.get(done.instance_id, 0) + new
        said = said + answers[-1]
    with lock:
        result.answers[number] = answers


def _metrics(found: list[dict[str, Result]], shared: list[Result]) -> dict[str, Metric]:
    def ttft(name: str) -> list[float]:
        return [fmean(made[name].ttft) for made in found]

    def cached(name: str) -> list[float]:
        return [made[name].cached / made[name].prompt for made in found]

    def over(one: str, other: str) -> list[float]:
        return [a / b for a, b in zip(ttft(one), ttft(other), strict=True)]

    same = [
        float(made["aware"].answers == made["round_robin"].answers == made["again"].answers)
        for made in found
    ]
    skew = [2 * max(one.uncached.values()) / sum(one.uncached.values()) for one in shared]
    return {
        "cached_aware": Metric.of(cached("aware"), "ratio"),
        "cached_round_robin": Metric.of(cached("round_robin"), "ratio"),
        "ttft_ratio": Metric.of(over("round_robin", "aware"), "ratio"),
        "ttft_aa": Metric.of(over("round_robin", "again"), "ratio"),
        "outputs_identical": Metric(min(same), "bool", len(same), min(same), max(same)),
        "one_prompt_skew": Metric.of(skew, "ratio"),
    }


def _ids(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(10, 2000) for _ in range(count)]
