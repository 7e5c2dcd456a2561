"""The worker process and its plane's side, over an engine without a model."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops.engines.base import Sign
from sage_llm_ops.engines.child import child_environment
from sage_llm_ops.engines.host import EXIT_ENGINE
from sage_llm_ops.engines.hub import Hub
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.echo_engine import echo_token
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Accepted, Done, Failed, Tokens

from .conftest import MakeWorker, gone


def node(number: int, n: int = 4, *, prompt: tuple[int, ...] = (5, 6), offset: int = 0) -> PlanNode:
    return PlanNode(
        NodeId(number),
        RequestId(f"r{number}"),
        "w",
        1,
        tokens=pack(prompt),
        n_tokens=len(prompt),
        offset=offset,
        sampling=SamplingParams(max_tokens=n),
    )


def test_a_request_from_start_to_end(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()
    began = time.monotonic()
    worker.start()
    assert time.monotonic() - began < 0.5, "start() waits"
    hello = uplink.wait_up("w")
    assert hello.engine == "echo" and hello.pid == worker.describe()["pid"]
    assert worker.submit(node(1, offset=10))
    assert uplink.wait_end(1) == Done(NodeId(1), "length", 2, 4)
    assert uplink.ids(1) == [echo_token(5, 2 + k) for k in range(4)]
    kinds = [type(event) for event in uplink.events(1)]
    assert kinds == [Accepted, Tokens, Tokens, Tokens, Tokens, Done]
    assert uplink.events(1)[1].offset == 10
    worker.stop(5)
    assert [entry[0] for entry in uplink.log].count("down") == 0
    assert not worker.submit(node(2))


def test_many_start_in_parallel_on_one_thread(make: MakeWorker, uplink: RecordingUplink) -> None:
    workers = [make(f"w{k}", options={"start_s": 0.3}) for k in range(8)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        uplink.wait_up(worker.id)
    assert time.monotonic() - began < 8 * 0.3 + 2, "they started one after the other"
    hubs = [thread for thread in threading.enumerate() if thread.name == "worker-hub"]
    assert len(hubs) == 1


def test_cancel_is_answered_once(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"step_s": 0.002})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1, 100000))
    uplink.wait(lambda up: len(up.ids(1)) > 3)
    worker.cancel(NodeId(1))
    worker.cancel(NodeId(1))
    worker.cancel(NodeId(99))
    done = uplink.wait_end(1)
    assert isinstance(done, Done) and done.finish_reason == "cancelled"
    assert done.n_tokens == len(uplink.ids(1))
    assert worker.drain(5)
    assert len(uplink.ends(1)) == 1


def test_submit_from_many_threads(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()
    worker.start()
    uplink.wait_up("w")

    def work(base: int) -> None:
        for k in range(50):
            assert worker.submit(node(base + k))

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.drain(20)
    numbers = [1000 * t + k for t in range(1, 5) for k in range(50)]
    assert all(len(uplink.ids(n)) == 4 and len(uplink.ends(n)) == 1 for n in numbers)


def test_stats_ping_and_drain(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"step_s": 0.005})
    worker.start()
    uplink.wait_up("w")
    assert worker.last_pong is None
    worker.submit(node(1, 20))
    assert worker.probe() is Sign.ANSWERED, "nothing was asked before"
    assert worker.drain(10)
    assert uplink.ends(1), "drained before its node ended"
    assert worker.last_pong is not None
    uplink.wait(lambda up: up.stats and up.stats[-1].running == 0)
    assert any(stats.running == 1 for stats in uplink.stats)
    assert uplink.stats[-1].rss_mb > 0


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


def test_an_engine_that_survives_fails_its_nodes(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"raise_at_step": 5, "survives": True})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1, 1000))
    failed = uplink.wait_end(1)
    assert isinstance(failed, Failed) and failed.code == "engine_failed"
    worker.submit(node(2))
    assert isinstance(uplink.wait_end(2), Done)


def test_an_engine_that_does_not_start(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"start_error": "no such device"})
    worker.start()
    reason = uplink.wait_down("w")
    assert "did not start: exited with code 69" in reason
    assert reason.endswith("EngineStartError: no such device")


def test_kill_during_start(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"start_s": 60.0})
    worker.start()
    pid = _wait_pid(worker)
    assert worker.describe()["state"] == "starting"
    os.kill(pid, signal.SIGKILL)
    assert "did not start: killed by SIGKILL" in uplink.wait_down("w")


def test_kill_before_the_process_exists(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"start_s": 60.0})
    worker.start()
    worker.kill()
    assert "killed on request" in uplink.wait_down("w")


@pytest.mark.parametrize("wait", [False, True])
def test_stop_during_start(make: MakeWorker, uplink: RecordingUplink, wait: bool) -> None:
    worker = make(options={"start_s": 60.0})
    worker.start()
    if wait:
        _wait_pid(worker)
    began = time.monotonic()
    worker.stop(5.0)
    assert time.monotonic() - began < 3.0
    assert uplink.log == []
    worker.stop(5.0)  # idempotent


def test_start_takes_too_long(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"start_s": 60.0}, start_timeout_s=0.5)
    worker.start()
    assert "did not come up within 0.5 s" in uplink.wait_down("w")


def test_start_twice(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()
    worker.start()
    with pytest.raises(IntegrityError, match="started while it runs"):
        worker.start()


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


@pytest.mark.parametrize(
    ("model", "expected_hash", "words"),
    [("other", "", "model is 'other', expected 'm'"), ("m", "abc", "tokenizer is 'echo'")],
)
def test_wrong_handshake(
    make: MakeWorker, uplink: RecordingUplink, model: str, expected_hash: str, words: str
) -> None:
    worker = make(options={"model": model}, model_name="m", tokenizer_hash=expected_hash)
    worker.start()
    assert words in uplink.wait_down("w")
    assert [entry[0] for entry in uplink.log] == ["down"]


PRELUDE = """
import sys, time, zmq
from sage_llm_ops.engines import wire
from sage_llm_ops.engines.host import _connect, read_spec
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.wire import PROTOCOL, Accepted, Hello
spec = read_spec(0)
hello = Hello(PROTOCOL, "echo", "1", "", "", 1, Capabilities())
"""
LINK = "up, down = _connect(zmq.Context(), spec)\n"


def _child(code: str) -> list[str]:
    return [sys.executable, "-c", PRELUDE + code]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (LINK + "up.send(b'garbage'); time.sleep(60)", "frame of 7 bytes from the worker"),
        (LINK + "up.send(wire.encode_up([Accepted(1)])); time.sleep(60)", "expected Hello first"),
        (LINK + "up.send(wire.encode_up([hello, hello])); time.sleep(60)", "a second Hello"),
        (LINK + "time.sleep(60)", "did not come up within 1 s"),
        ("time.sleep(60)", "did not come up within 1 s"),
        ("sys.exit('I cannot')", "exited with code 1; its log ends:\nI cannot"),
    ],
)
def test_children_that_misbehave(
    make: MakeWorker, uplink: RecordingUplink, code: str, words: str
) -> None:
    worker = make(command=_child(code), start_timeout_s=1.0)
    worker.start()
    assert words in uplink.wait_down("w")


def test_no_such_program(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(command=["/nonexistent/python"])
    worker.start()
    assert "could not start" in uplink.wait_down("w")


def test_garbage_from_the_plane_is_survived(
    make: MakeWorker, uplink: RecordingUplink, tmp_path: Path
) -> None:
    log = tmp_path / "sub" / "w.log"
    worker = make(log=log)
    worker.start()
    uplink.wait_up("w")
    child = worker._child
    assert child is not None
    with child._lock:
        child._down.send(b"\xff garbage")
    worker.submit(node(1))
    uplink.wait_end(1)
    assert "ignored: frame of 9 bytes from the plane" in log.read_text()


def test_the_simulated_engine_in_a_process(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(engine="sim", options={"timing": "instant"})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1))
    done = uplink.wait_end(1)
    assert isinstance(done, Done) and len(uplink.ids(1)) == 4


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


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


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


def test_paths_are_gone_once_it_is_up(
    make: MakeWorker, uplink: RecordingUplink, runtime: Path
) -> None:
    worker = make()
    worker.start()
    uplink.wait_up("w")
    assert list(runtime.iterdir()) == []


def test_a_long_runtime_directory_is_not_used(
    make: MakeWorker, uplink: RecordingUplink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    worker = make()
    worker.start()
    uplink.wait_up("w")


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


def _wait_pid(worker: ProcessWorker) -> int:
    while not (pid := worker.describe()["pid"]):
        threading.Event().wait(0.001)
    return int(pid)


def _wait_down(worker: ProcessWorker) -> None:
    child = worker._child
    if child is not None:
        assert child.gone.wait(5)
