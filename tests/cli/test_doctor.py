from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_llm_ops.cli.doctor import machine, packages
from sage_llm_ops.cli.doctor.checks import Absent, Check, Trial, default_trials, examine

ROOT = Path(__file__).parents[2]


def fails() -> str:
    raise OSError("it fell down")


def absent() -> str:
    raise Absent("not here", "apt install it")


def test_a_trial_becomes_a_check() -> None:
    trials = [
        Trial("good", lambda: "1.2", "no"),
        Trial("bad", fails, "stand it up", needed=False),
        Trial("needed", absent, "stand it up"),
        Trial("extra", absent, "stand it up", needed=False),
    ]
    assert list(examine(trials)) == [
        Check("good", "ok", "1.2"),
        Check("bad", "broken", "OSError: it fell down", "stand it up"),
        Check("needed", "broken", "not here", "apt install it"),
        Check("extra", "absent", "not here", "apt install it"),
    ]


def test_everything_but_vllm_is_really_tried() -> None:
    found = list(examine(trial for trial in default_trials() if trial.name != "vllm"))
    assert [check for check in found if check.state == "broken"] == []
    said = {check.name: check.said for check in found}
    assert said["sage graph"].startswith("8 tokens through the graph (isage 0.3")
    assert said["worker process"] == "8 tokens from a child over ipc"
    assert "isage" in said and "pyzmq" in said


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("0.3.2.4", ">=0.3.2.3,<0.4", True),
        ("0.3.2.2", ">=0.3.2.3,<0.4", False),
        ("0.4.0", ">=0.3.2.3,<0.4", False),
        ("26.2.1", ">=26,<28", True),
        ("0.28.1", ">=0.27,<1", True),
    ],
)
def test_versions(version: str, bounds: str, fits: bool) -> None:
    assert packages.within(version, bounds) == fits


def test_a_version_of_another_time_is_named() -> None:
    with pytest.raises(RuntimeError, match="is installed, and it has to be >=99,<100"):
        packages.installed("httpx", ">=99,<100")


def test_the_bounds_are_those_of_the_package() -> None:
    assert dict(packages.needed())["isage"] == ">=0.3.2.3,<0.4"


def test_a_prefix_index_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trial = next(trial for trial in default_trials() if trial.name == "prefix index")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (check,) = examine([trial])
    assert check.state == "absent"
    assert check.said.startswith("runs in Python, about forty times slower: no C compiler")
    assert "apt-get install gcc" in check.fix


def test_shared_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "SHM", tmp_path / "none")
    with pytest.raises(Absent) as found:
        machine.shared_memory()
    assert found.value.fix.startswith("sudo mount -t tmpfs")


def test_a_gpu_as_its_driver_lists_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'H200, 143771 MiB'\n")
    driver.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus() == "H200, 143771 MiB"
    driver.write_text("#!/bin/sh\necho 'driver mismatch' >&2; exit 9\n")
    with pytest.raises(RuntimeError, match="nvidia-smi: driver mismatch"):
        machine.gpus()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Absent, match="no NVIDIA driver"):
        machine.gpus()


def test_a_broken_machine_is_exit_code_1(tmp_path: Path) -> None:
    """No directory for sockets: the two checks that need one say so, and what to do."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    code = (
        "import sys, tempfile; from sage_llm_ops.engines import child; import os\n"
        "real = os.access\n"
        "os.access = lambda path, mode: False if path == '/tmp' else real(path, mode)\n"
        "from sage_llm_ops.cli.doctor import packages; from sage_llm_ops.cli import main\n"
        "from sage_llm_ops.cli.doctor.checks import Absent\n"
        "def none(): raise Absent('left out')\n"
        "packages.vllm = none\n"
        "sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(long),
            "XDG_RUNTIME_DIR": str(long),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken  ipc socket" in done.stdout
    assert "mend it: export XDG_RUNTIME_DIR to a short path" in done.stdout
    assert "ok      sage graph" in done.stdout
    assert "checks failed: ipc socket, worker process" in done.stdout


@pytest.mark.vllm
def test_json_with_vllm(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    code = call("doctor", "--json")
    told = json.loads(capsys.readouterr().out)
    assert (code, told["ok"]) == (0, True)
    (vllm,) = [check for check in told["checks"] if check["name"] == "vllm"]
    assert vllm["state"] == "ok" and "with torch" in vllm["said"]
