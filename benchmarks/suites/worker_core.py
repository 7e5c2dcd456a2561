"""vLLM's two worker cores side by side: start, memory, speed, and what kill -9 leaves behind.

    python benchmarks/suites/worker_core.py [--rounds 3] [--cores inproc async]

Each round starts, for each core, a plane in a process of its own with one worker, runs a batch, and
kills it: the worker (the plane lives on), then, in a second start, the plane. Rounds interleave the
cores. Prints one line a measurement as JSON, then a table of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import psutil

from sage_llm_ops.engines.registry import make_worker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Tokens

BATCH, PROMPT, OUTPUT = 16, 64, 128
PATIENCE_S = 15.0
"""What still runs after this long counts as left behind."""


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


def measure(core: str, victim: str) -> dict[str, Any]:
    """One start and one kill -9 of `worker` or `plane`."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--plane", core], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the plane with core {core!r} ended without a report")
    report = json.loads(line)
    head = psutil.Process(report.pop("pid"))
    family = [head, *head.children(recursive=True)]
    rss = {each.name(): each.memory_info().rss / 2**20 for each in family}
    began = time.monotonic()
    os.kill(head.pid if victim == "worker" else process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    left = [each.name() for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    report |= {
        "core": core,
        "victim": victim,
        "processes": len(family),
        "rss_mb": sum(rss.values()),
        "gone_after_s": None if left else time.monotonic() - began,
        "left": left,
    }
    for each in alive:
        each.kill()
    process.kill()
    process.communicate()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", nargs="+", default=["inproc", "async"])
    parser.add_argument("--plane", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plane:
        plane(arguments.plane)
        return
    rows = []
    for _ in range(arguments.rounds):
        for core in arguments.cores:
            for victim in ("worker", "plane"):
                rows.append(measure(core, victim))
                print(json.dumps(rows[-1]), flush=True)
    for core in arguments.cores:
        mine = [row for row in rows if row["core"] == core]
        start = [row["start_s"] for row in mine]
        many = [row["many"]["tokens_s"] for row in mine]
        print(
            f"{core}: start {statistics.median(start):.1f} s ({min(start):.1f}-{max(start):.1f}), "
            f"{mine[0]['processes']} processes, {statistics.median(r['rss_mb'] for r in mine):.0f} MiB, "
            f"TTFT {statistics.median(r['one']['ttft_ms'] for r in mine):.1f} ms, "
            f"batch {BATCH}: {statistics.median(many):.0f} tokens/s ({min(many):.0f}-{max(many):.0f})"
        )
        for victim in ("worker", "plane"):
            some = [row for row in mine if row["victim"] == victim]
            after = [row["gone_after_s"] for row in some if row["gone_after_s"] is not None]
            text = f"gone after {max(after):.2f} s at most" if after else "-"
            left = sum(bool(row["left"]) for row in some)
            print(f"  kill -9 of the {victim}: {text}; left something in {left} of {len(some)}")


if __name__ == "__main__":
    main()
