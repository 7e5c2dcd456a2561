import fcntl
import os
import signal
import subprocess
import sys
import time

import pytest
from phases import PhaseFailed, Phases, size_of


@pytest.fixture
def log(tmp_path):
    with open(tmp_path / "log", "a+b") as file:
        yield file


def test_a_phase_is_shown_with_its_time(log, tmp_path, capfd):
    Phases(log, tmp_path).run("say hello", ["sh", "-c", "echo hello"], os.environ)
    out = capfd.readouterr().out
    assert out.startswith("say hello ")
    assert " s" in out
    assert "hello\n" in (tmp_path / "log").read_text()


def test_a_failure_carries_its_own_output_only(log, tmp_path):
    phases = Phases(log, tmp_path)
    phases.run("before", ["echo", "earlier"], os.environ)
    with pytest.raises(PhaseFailed, match=r"install failed \(exit code 3\)") as caught:
        phases.run("install", ["sh", "-c", "echo no space left; exit 3"], os.environ)
    assert "no space left" in caught.value.output
    assert "earlier" not in caught.value.output


def test_an_interrupt_ends_the_child_before_it_goes_on(log, tmp_path):
    def ring(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            Phases(log, tmp_path).run("sleep", ["sleep", "60"], os.environ)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    log.close()
    with open(tmp_path / "log", "a+b") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


PARENT = """
import fcntl, os, sys
from pathlib import Path
from phases import Phases
log = open(sys.argv[1], "a+b")
fcntl.flock(log, fcntl.LOCK_EX)
print("locked", flush=True)
Phases(log, Path(".")).run("sleep", ["sh", "-c", "echo $$ > child; exec sleep 60"], os.environ)
"""


def test_a_killed_parents_child_still_holds_the_lock(tmp_path):
    import phases

    env = {**os.environ, "PYTHONPATH": os.path.dirname(phases.__file__)}
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    parent = subprocess.Popen(argv, cwd=tmp_path, env=env, stdout=subprocess.PIPE)
    with parent.stdout:
        child = wait_for(tmp_path / "child")
        parent.kill()
        parent.wait()
    with open(tmp_path / "log", "a+b") as log:
        with pytest.raises(BlockingIOError):
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(child, signal.SIGKILL)
        fcntl.flock(log, fcntl.LOCK_EX)


def wait_for(path):
    for _ in range(500):
        if path.exists() and path.read_text().strip():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written within 10 s")


def test_the_size_counts_files_and_not_links(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"x" * 3_000_000)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert size_of(tmp_path) == "3 MB"
