"""What is looked at on a machine with a GPU, for each engine that can be there.

`SAGE_LLM_OPS_GPU_MODEL` names the model (the tiny random one otherwise), and
`SAGE_LLM_OPS_LMDEPLOY_PYTHON` the interpreter of LMDeploy's environment (ours otherwise).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_llm_ops.core import ControlPlane, serving
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.requests import RequestMetadata
from sage_llm_ops.types.results import RequestResult

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("vllm", "lmdeploy-pytorch", "lmdeploy-turbomind")
MEMORY = "memory.used"
WAIT_S = 300.0
BATCH, PROMPT, TOKENS = 128, 256, 128


def why_not(engine: str) -> str:
    """Why nothing can be looked at here; empty where it can."""
    if not smi("name"):
        return "no NVIDIA GPU on this machine"
    module = engine.partition("-")[0]
    found = subprocess.run(
        [python_of(engine), "-c", f"import {module}"], capture_output=True, check=False
    )
    return "" if found.returncode == 0 else f"{module} is not installed in {python_of(engine)}"


def smi(field: str) -> list[str]:
    """nvidia-smi's answer, a line for each card."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return out.strip().splitlines()


def python_of(engine: str) -> str:
    other = os.environ.get("SAGE_LLM_OPS_LMDEPLOY_PYTHON", "")
    return (other if engine.startswith("lmdeploy") else "") or sys.executable


def model() -> str:
    return os.environ.get("SAGE_LLM_OPS_GPU_MODEL") or str(tiny_model())


@dataclass
class Card:
    """An engine on the card, as the one worker of a plane."""

    plane: ControlPlane
    before_mb: float

    def run(self, prompts: list[list[int]], tokens: int) -> list[RequestResult]:
        sampling = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
        handles = [
            self.plane.submit(RequestMetadata(prompt_token_ids=ids, sampling_params=sampling))
            for ids in prompts
        ]
        return [handle.result(WAIT_S) for handle in handles]

    def memory_mb(self) -> float:
        """What it took of the card."""
        return float(smi(MEMORY)[0]) - self.before_mb

    def usage_after_cancel(self) -> float:
        """Part of the KV cache in use when a full batch was cancelled and one more request ran."""
        sampling = {"max_tokens": 2 * TOKENS, "temperature": 0.0, "ignore_eos": True}
        handles = [
            self.plane.submit(RequestMetadata(prompt_token_ids=ids, sampling_params=sampling))
            for ids in prompts_of(1)
        ]
        next(iter(handles[0].iter(WAIT_S)))
        for handle in handles:
            self.plane.cancel(handle.request_id)
        self.plane.pipeline.hands.wait_empty(WorkerId("w0"), WAIT_S)
        self.run(prompts_of(2)[:1], 8)
        fleet = self.plane.pipeline.plane.fleet
        deadline = time.monotonic() + 10.0
        # A worker that has become idle says so, but in a message of its own.
        while time.monotonic() < deadline and not fleet.kv_usage[fleet.rows[WorkerId("w0")]] < 0.01:
            time.sleep(0.05)
        return float(fleet.kv_usage[fleet.rows[WorkerId("w0")]])


@contextmanager
def card(engine: str) -> Iterator[Card]:
    """Started, and stopped at the end."""
    name, _, backend = engine.partition("-")
    options: dict[str, Any] = {"model": model(), "dtype": "float16"}
    if backend:
        options |= {"backend": backend, "python": python_of(engine)}
    instance = ExecutionInstance("w0", model_name="gpu", engine=name, options=options)
    plane = ControlPlane(serving(instances=(instance,)))
    before = float(smi(MEMORY)[0])
    try:
        plane.start()
        yield Card(plane, before)
    finally:
        plane.stop(10.0)


def prompts_of(seed: int) -> list[list[int]]:
    """Eight shared beginnings; ids that every vocabulary has."""
    draw = random.Random(seed)
    shared = [[draw.randrange(10, 2000) for _ in range(PROMPT // 2)] for _ in range(8)]
    return [
        shared[n % 8] + [draw.randrange(10, 2000) for _ in range(PROMPT // 2)] for n in range(BATCH)
    ]


def reference(prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """What transformers says, greedily, on the card; it is let go of afterwards."""
    import torch
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(model(), dtype=torch.float16).cuda().eval()
    out = []
    for ids in prompts:
        given = torch.tensor([ids], device="cuda")
        said = net.generate(
            given, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        out.append(said[0, len(ids) :].tolist())
    del net
    torch.cuda.empty_cache()
    return out


def throughputs(engine: str, plane: Card, rounds: int) -> list[tuple[float, float, float]]:
    """Seconds alone, through the plane, and alone again, in rotating order. The card holds both."""
    command = [python_of(engine), "-m", "benchmarks.gpu_plain", engine, model()]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    found = []
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:

        def alone(seed: int) -> float:
            print(json.dumps([prompts_of(seed), TOKENS]), file=process.stdin, flush=True)
            return float(json.loads(process.stdout.readline()))

        def through(seed: int) -> float:
            began = time.perf_counter()
            plane.run(prompts_of(seed), TOKENS)
            return time.perf_counter() - began

        process.stdout.readline()  # it is up
        alone(10), through(10)
        for turn in range(rounds):
            one = [0.0, 0.0, 0.0]
            for step in range(3):
                which = (turn + step) % 3
                seed = 20 + 2 * turn + (which == 2)
                one[which] = through(seed) if which == 1 else alone(seed)
            found.append((one[0], one[1], one[2]))
        process.stdin.close()
    return found
