"""R5: a program that forgets `stop` exits by itself, at once, and leaves no process behind."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

LIMIT_S = 30.0
"""On a loaded machine; it takes two seconds on a quiet one."""

PROGRAM = """
import asyncio
from sage_llm_ops import ControlPlaneManager
from tests.core.fleets import echo, instance, request

manager = ControlPlaneManager(enable_pd_separation=False)
manager.register_instance({instance})

async def main():
    result = await manager.process_request("Hello", {{"max_tokens": 3}})
    print(len(result.token_ids), manager.executor.worker("w0").describe()["pid"], flush=True)
    {last}

asyncio.run(main())
"""
SIM = "instance('w0', options={'speed': 1000.0})"
PROCESS = "echo('w0')"
SLOW = "echo('w0', step_s=0.5)"
RUNNING = "await manager.submit_request(request('r'))"


def _run(instance: str, last: str = "pass") -> tuple[int, list[int], str]:
    """Exit code of the program, what it printed, and its complaints."""
    program = PROGRAM.format(instance=instance, last=last)
    done = subprocess.run(  # noqa: PLW1510 - the exit code is what is looked at
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return done.returncode, [int(word) for word in done.stdout.split()], done.stderr


@pytest.mark.parametrize("instance", [SIM, PROCESS], ids=["inline", "process"])
def test_it_exits_by_itself(instance: str) -> None:
    code, (tokens, worker), complaints = _run(instance)
    assert (code, tokens, complaints) == (0, 3, "")
    assert not psutil.pid_exists(worker)


def test_it_exits_with_requests_running() -> None:
    code, (_, worker), complaints = _run(SLOW, RUNNING)
    assert (code, complaints) == (0, "")
    assert not psutil.pid_exists(worker)


def test_it_exits_after_an_error() -> None:
    code, (_, worker), complaints = _run(PROCESS, "raise SystemExit(7)")
    assert (code, complaints) == (7, "")
    assert not psutil.pid_exists(worker)
