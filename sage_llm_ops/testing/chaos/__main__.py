"""`python -m sage_llm_ops.testing.chaos [--minutes 3] [--seed N]`: exit code 1 on any violation."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from sage_llm_ops.testing.chaos import run
from sage_llm_ops.testing.chaos.served import ServedFleet
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.testing.vllm_server import vllm_server
from sage_llm_ops.types.instances import ExecutionInstance

SMALL = {"kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 16, "max_model_len": 1024}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults are injected")
    parser.add_argument(
        "--seed", type=int, help="of the schedule; else a new one, which is printed"
    )
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    seed = random.randrange(1 << 30) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    model = str(tiny_model())
    with tempfile.TemporaryDirectory(prefix="sllo-chaos-") as root:
        folder, kept = Path(root) / "tmp", Path(root) / "kept"
        folder.mkdir()
        kept.mkdir()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept / "torchinductor")
        instances = [
            ExecutionInstance(f"w{n}", model_name=model, options=SMALL)
            for n in range(given.workers)
        ]
        with vllm_server(kept, model, SMALL["max_model_len"]) as port:
            _wait_healthy(port)
            os.environ["TMPDIR"] = os.environ["XDG_RUNTIME_DIR"] = tempfile.tempdir = str(folder)
            fleet = ServedFleet(instances, kept, "vllm", port)
            report = run(fleet, folder, 60.0 * given.minutes, seed)
        tempfile.tempdir = None
    print("\n".join(report.lines()))
    return 1 if report.violations else 0


def _wait_healthy(port: int) -> None:
    import httpx

    end = time.monotonic() + 180.0
    while time.monotonic() < end:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise SystemExit(f"vLLM's server at port {port} was not healthy within 180 s")


if __name__ == "__main__":
    sys.exit(main())
