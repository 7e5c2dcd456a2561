"""`python -m sage_llm_ops.testing.chaos [--minutes 3] [--seed N] [--workers LIST]`: exit code 1 on any
violation. In LIST each word is a worker to break: `vllm` and `lmdeploy` are worker processes, `http`
is vLLM's own server behind a line that breaks.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from sage_llm_ops.testing.chaos import ChaosFleet, ProcessFleet, run
from sage_llm_ops.testing.chaos.members import LENGTH, all_there_is, checked, members
from sage_llm_ops.testing.chaos.served import SERVED, ServedFleet
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.testing.vllm_server import vllm_server
from sage_llm_ops.types.errors import ConfigError


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults are injected")
    parser.add_argument(
        "--seed", type=int, help="of the schedule; else a new one, which is printed"
    )
    parser.add_argument(
        "--workers",
        metavar="LIST",
        help="default: vllm,vllm,lmdeploy,http, without lmdeploy where its environment is not there",
    )
    given = parser.parse_args()
    seed = random.randrange(1 << 30) if given.seed is None else given.seed
    wanted, missing = all_there_is()
    if given.workers:
        try:
            wanted, missing = checked(given.workers.split(",")), ""
        except ConfigError as error:
            parser.error(str(error))
    print(f"seed {seed}, workers: {', '.join(wanted)}", flush=True)
    if missing:
        print(f"no LMDeploy worker among them: {missing}", flush=True)
    with tempfile.TemporaryDirectory(prefix="sllo-chaos-") as root, ExitStack() as stack:
        folder, kept = Path(root) / "tmp", Path(root) / "kept"
        folder.mkdir()
        kept.mkdir()
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kept / "torchinductor")
        fleet = _fleet(wanted, kept, stack)
        os.environ["TMPDIR"] = os.environ["XDG_RUNTIME_DIR"] = tempfile.tempdir = str(folder)
        report = run(fleet, folder, 60.0 * given.minutes, seed)
        tempfile.tempdir = None
    print("\n".join(report.lines()))
    return 1 if report.violations else 0


def _fleet(wanted: list[str], kept: Path, stack: ExitStack) -> ChaosFleet:
    """Its server, where it has one, answers."""
    instances = members(wanted)
    if SERVED not in wanted:
        return ProcessFleet(instances, kept)
    model = str(tiny_model())
    port = stack.enter_context(vllm_server(kept, model, LENGTH))
    _wait_healthy(port)
    return ServedFleet(instances, kept, model, port)


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
