"""How worker processes end, what is told of it, and that nothing of them is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops.engines.child import child_environment
from sage_llm_ops.engines.host import EXIT_ENGINE
from sage_llm_ops.engines.hub import Hub
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.wire import Done

from .conftest import MakeWorker, gone, node


def test_kill_during_traffic_and_restart(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"step_s": 0.001})
    for incarnation in (1, 2, 3):
        worker.start()
        assert worker.incarnation == incarnation
        pid = uplink.wait_up("w", incarnation).pid
        worker.submit(node(incarnation, 100000))
        uplink.wait(lambda up, n=incarnation: len(up.ids(n)) > 3)
        began = time.monotonic()
        if incarnation == 2:
            worker.kill()
        else:
            os.kill(pid, signal.SIGKILL)
        reason = uplink.wait_down("w", incarnation)
        assert time.monotonic() - began < 2.0
        assert "killed" in reason
        assert gone(pid)
        last = [entry for entry in uplink.log if entry[2] == incarnation][-1]
        assert last[0] == "down", "something of this incarnation came after its end"
        assert not worker.submit(node(50))
        assert not uplink.ends(incarnation)
    assert [e[0] for e in uplink.log].count("down") == 3


def test_frames_before_an_exit_are_reported(make: MakeWorker, uplink: RecordingUplink) -> None:
    """The engine's 30th step ends the process: what it had sent before must arrive first."""
    worker = make(options={"exit_at_step": 30, "step_s": 0.002})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1, 1000))
    reason = uplink.wait_down("w")
    assert "exited with code 3" in reason
    assert len(uplink.ids(1)) >= 27  # libzmq writes from a thread of its own, which dies too
    assert not uplink.ends(1)


def test_an_engine_that_raises_ends_the_process(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"raise_at_step": 5})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1, 1000))
    reason = uplink.wait_down("w")
    assert f"exited with code {EXIT_ENGINE}" in reason
    assert reason.endswith("RuntimeError: echo engine: told to raise")
    assert len(uplink.ids(1)) == 4


def test_restart_from_the_callback(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()

    class Restarting(RecordingUplink):
        def on_down(self, name, incarnation, reason) -> None:  # type: ignore[no-untyped-def]
            super().on_down(name, incarnation, reason)
            worker.start()

    worker._uplink = again = Restarting()
    worker.start()
    os.kill(again.wait_up("w").pid, signal.SIGKILL)
    assert again.wait_up("w", 2).pid


def test_sigterm_ends_it_in_order(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()
    worker.start()
    os.kill(uplink.wait_up("w").pid, signal.SIGTERM)
    assert "exited with code 0" in uplink.wait_down("w")


def test_what_the_engine_started_ends_with_it(
    make: MakeWorker, uplink: RecordingUplink, tmp_path: Path
) -> None:
    file = tmp_path / "grandchild"
    worker = make(options={"fork": str(file)})
    worker.start()
    os.kill(uplink.wait_up("w").pid, signal.SIGKILL)
    uplink.wait_down("w")
    assert gone(int(file.read_text()))


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_the_engine_left_in_the_file_system_is_removed(
    make: MakeWorker, uplink: RecordingUplink, tmp_path: Path, end: str
) -> None:
    """Also where its whole group of processes is killed at once, resource tracker included."""
    file = tmp_path / "litter"
    worker = make(options={"litter": str(file), "fork": str(tmp_path / "grandchild")})
    worker.start()
    pid = uplink.wait_up("w").pid
    made = [Path(line) for line in file.read_text().splitlines()]
    assert len(made) == 3 and all(path.exists() for path in made)
    sweeper = next(each for each in _children(pid) if _name(each) == "sllo-sweeper")
    if end == "kill":
        os.killpg(pid, signal.SIGKILL)
        uplink.wait_down("w")
    else:
        worker.stop(5)
    assert gone(sweeper)
    assert not [
        path
        for path in made
        if path.exists() or (path.parent.name.startswith("sllo-tmp") and path.parent.exists())
    ]


def test_nothing_is_left(make: MakeWorker, uplink: RecordingUplink) -> None:
    def look() -> tuple[int, int]:
        assert Hub.shared().join(5)
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    worker = make()
    before = None
    for incarnation in range(1, 5):
        worker.start()
        uplink.wait_up("w", incarnation)
        worker.submit(node(incarnation))
        uplink.wait_end(incarnation)
        if incarnation % 2:
            worker.stop(5)
        else:
            worker.kill()
            uplink.wait_down("w", incarnation)
            _wait_down(worker)
        # The first round loads what stays: libzmq's and the interpreter's own.
        before = before or look()
    assert look() == before


PARENT = """
import sys, threading
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.testing.echo_engine import ECHO
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.instances import ExecutionInstance
uplink = RecordingUplink()
worker = ProcessWorker(ExecutionInstance("w"), uplink, engine=ECHO, options=OPTIONS)
worker.start()
if OPTIONS.get("start_s"):
    while not worker.describe()["pid"]:
        threading.Event().wait(0.001)
    pid = worker.describe()["pid"]
else:
    pid = uplink.wait_up("w").pid
print(pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("options", [{}, {"start_s": 60.0}, {"fork": "GRANDCHILD"}])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_does_not_outlive_its_plane(
    runtime: Path, tmp_path: Path, options: dict[str, Any], number: signal.Signals
) -> None:
    """Nor does what its engine started."""
    file = tmp_path / "grandchild"
    code = PARENT.replace("OPTIONS", repr(options)).replace("GRANDCHILD", str(file))
    plane = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env=child_environment(dict(os.environ), {}),
    )
    with plane:
        assert plane.stdout is not None
        pid = int(plane.stdout.readline())
        plane.send_signal(number)
    assert gone(pid), "the worker outlived its plane"
    if options.get("fork"):
        assert gone(int(file.read_text())), "what the engine started outlived the plane"
    deadline = time.monotonic() + 5
    while list(runtime.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)  # the dying child removes it
    assert list(runtime.iterdir()) == []


def test_killing_the_guard_first_changes_nothing_for_the_worker(
    make: MakeWorker, uplink: RecordingUplink, tmp_path: Path
) -> None:
    worker = make(options={"fork": str(tmp_path / "grandchild")})
    worker.start()
    pid = uplink.wait_up("w").pid
    guard = next(each for each in _children(pid) if _name(each) == "sllo-guard")
    os.kill(guard, signal.SIGKILL)
    worker.submit(node(1))
    assert isinstance(uplink.wait_end(1), Done)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _wait_down(worker: ProcessWorker) -> None:
    child = worker._child
    if child is not None:
        assert child.gone.wait(5)
