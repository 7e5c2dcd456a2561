"""Worker processes that come up, that do not, and that say something else than was expected."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import IntegrityError

from .conftest import MakeWorker


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


def _wait_pid(worker: ProcessWorker) -> int:
    while not (pid := worker.describe()["pid"]):
        threading.Event().wait(0.001)
    return int(pid)
