"""vLLM's two worker cores side by side: start, memory, speed, and what kill -9 leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.metric import Metric
from sage_llm_ops.engines.registry import make_worker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Tokens

WORKLOAD = """\
Each round starts, for each core, a plane in a process of its own with one worker (a 4.5M-parameter
Llama on the CPU), runs one request and then 16 at once (64 tokens in, 128 out), and kills it with
SIGKILL: the worker (the plane lives on), then, in a second start, the plane. Rounds interleave the
cores. *_gone_s: until the worker's whole family of processes had ended; 15 is never."""

CORES = ("inproc", "async")
SIZES = {"ci": 1, "full": 3}
BATCH, PROMPT, OUTPUT = 16, 64, 128
PATIENCE_S = 15.0
"""What still runs after this long counts as left behind."""
ROOT = Path(__file__).resolve().parent.parent.parent


def plane(core: str) -> None:
    """The process under test: reports as JSON lines, then waits to be killed."""
    uplink = RecordingUplink()
    options = {"model": str(tiny_model()), "max_model_len": 2048, "core": core}
    worker = make_worker(ExecutionInstance("w", model_name="tiny", options=options), uplink, "vllm")
    began = time.monotonic()
    worker.start()
    pid = uplink.wait_up("w", timeout_s=180).pid
    start_s = time.monotonic() - began
    _batch(worker, uplink, 1000, 1)  # warm
    one = _batch(worker, uplink, 2000, 1)
    many = _batch(worker, uplink, 3000, BATCH)
    print(json.dumps({"pid": pid, "start_s": start_s, "one": one, "many": many}), flush=True)
    print(json.dumps({"down": uplink.wait_down("w", timeout_s=600).splitlines()[0]}), flush=True)
    time.sleep(600)


def _batch(worker: Any, uplink: RecordingUplink, base: int, n: int) -> dict[str, float]:
    sampling = SamplingParams(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True)
    began = time.monotonic()
    for k in range(n):
        ids = [10 + (base + k * 977 + j * 7) % 2000 for j in range(PROMPT)]
        node = PlanNode(NodeId(base + k), RequestId("r"), "w", 1, tokens=pack(ids), n_tokens=PROMPT)
        node.sampling = sampling
        worker.submit(node)
    first = uplink.wait(
        lambda up: any(isinstance(event, Tokens) for event in up.events(base)) and time.monotonic()
    )
    for k in range(n):
        uplink.wait_end(base + k, timeout_s=60)
    took = time.monotonic() - began
    return {"ttft_ms": 1000 * (first - began), "tokens_s": n * OUTPUT / took}


def start_and_kill(core: str, victim: str) -> dict[str, Any]:
    """One start and one kill -9 of `worker` or `plane`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.suites.worker_core", core],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the plane with core {core!r} ended without a report")
    report: dict[str, Any] = json.loads(line)
    head = psutil.Process(report.pop("pid"))
    family = [head, *head.children(recursive=True)]
    rss = {each.name(): each.memory_info().rss / 2**20 for each in family}
    began = time.monotonic()
    os.kill(head.pid if victim == "worker" else process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    left = [each.name() for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    report |= {
        "processes": len(family),
        "rss_mb": sum(rss.values()),
        "gone_s": PATIENCE_S if left else time.monotonic() - began,
    }
    for each in alive:
        each.kill()
    process.kill()
    process.communicate()
    return report


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(rounds: int, cores: Sequence[str] = CORES) -> dict[str, Metric]:
    """All metrics of the suite."""
    reports: dict[str, list[dict[str, Any]]] = {core: [] for core in cores}
    gone: dict[str, list[float]] = {}
    for _ in range(rounds):
        for core in cores:
            for victim in ("worker", "plane"):
                report = start_and_kill(core, victim)
                reports[core].append(report)
                gone.setdefault(f"{core}_{victim}_gone_s", []).append(report["gone_s"])
    metrics: dict[str, Metric] = {}
    for core, mine in reports.items():
        metrics |= {
            f"{core}_start_s": Metric.of([r["start_s"] for r in mine], "s"),
            f"{core}_rss_mb": Metric.of([r["rss_mb"] for r in mine], "MiB"),
            f"{core}_processes": Metric.of([r["processes"] for r in mine], "processes"),
            f"{core}_ttft_ms": Metric.of([r["one"]["ttft_ms"] for r in mine], "ms"),
            f"{core}_tokens_per_s": Metric.of([r["many"]["tokens_s"] for r in mine], "tokens/s"),
        }
    return metrics | {name: Metric.of(times, "s") for name, times in gone.items()}


if __name__ == "__main__":
    plane(sys.argv[1])
