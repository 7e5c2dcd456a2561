"""vLLM without us: an LLMEngine in a process of its own, given whole batches over a pipe.

`Straight` is the benchmark's side; `python -m benchmarks.straight` is the process, and
`benchmarks.straight_lmdeploy` another engine's. Both sides speak lines of JSON. The clock runs
inside the process, from the first request added to the last output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import IO, Any

from benchmarks.answers import answer, ask
from benchmarks.batches import Shape, sampling
from sage_llm_ops.engines.child import child_environment

WHO = "the straight engine"
ROOT = Path(__file__).resolve().parent.parent
Batch = list[tuple[list[int], int]]
"""Prompts, and how many tokens each shall get."""
Engine = tuple[Callable[[Batch], tuple[float, list[list[int]]]], Callable[[], object]]
"""What runs a batch and says seconds and outputs, and what shuts it down."""


class Straight:
    """One started engine."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self._process = process
        self._log = log
        answer(process, log, WHO)

    def run(self, seed: int) -> tuple[float, list[list[int]]]:
        """Seconds and outputs of one batch."""
        found = ask(self._process, self._log, WHO, seed)
        return found["seconds"], found["outputs"]


@contextmanager
def straight(
    options: dict[str, Any],
    shape: Shape,
    *,
    module: str = "benchmarks.straight",
    python: str = sys.executable,
) -> Iterator[Straight]:
    """In the environment that a worker process gets."""
    environment = child_environment(dict(os.environ), {}, elsewhere=python != sys.executable)
    spec = json.dumps({"options": options, "shape": asdict(shape)})
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [python, "-m", module, spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=ROOT,
            text=True,
        ) as process,
    ):
        try:
            yield Straight(process, log)
        finally:
            assert process.stdin is not None
            process.stdin.close()  # its end of file: it shuts the engine down
            try:
                process.wait(20.0)
            except subprocess.TimeoutExpired:
                process.kill()


def serve(spec: str, load: Callable[[dict[str, Any]], Engine]) -> None:
    """The process: answers seeds with seconds and outputs until its stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # engines print; what they print is no answer
    given = json.loads(spec)
    shape = Shape(**given["shape"])
    run, stop = load(given["options"])
    print(json.dumps("up"), file=answers, flush=True)
    for line in sys.stdin:
        seconds, outputs = run(shape.batch(int(line)))
        print(json.dumps({"seconds": seconds, "outputs": outputs}), file=answers, flush=True)
    stop()


def load_vllm(options: dict[str, Any]) -> Engine:
    """As `engines/vllm/inproc.py` starts it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from sage_llm_ops.engines.vllm.options import VllmOptions

    arguments = {"disable_log_stats": True, **VllmOptions(**options).arguments(cpu=True)}
    engine = LLMEngine.from_engine_args(EngineArgs(**arguments), enable_multiprocessing=False)
    return (lambda batch: _batch(engine, batch)), engine.engine_core.shutdown


def _batch(engine: Any, batch: Batch) -> tuple[float, list[list[int]]]:
    from sage_llm_ops.engines.vllm.sampling import to_vllm

    outputs: list[list[int]] = [[] for _ in batch]
    began = time.perf_counter()
    run = next(_runs)
    for number, (ids, wanted) in enumerate(batch):
        params = to_vllm(sampling(wanted))
        engine.add_request(f"{run}-{number}", {"prompt_token_ids": ids}, params)
    while engine.has_unfinished_requests():
        for output in engine.step():
            number = int(output.request_id.split("-")[1])
            outputs[number].extend(output.outputs[0].token_ids)
    return time.perf_counter() - began, outputs


_runs = count(1)

if __name__ == "__main__":
    serve(sys.argv[1], load_vllm)
