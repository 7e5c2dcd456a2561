"""Half a minute of `make chaos`: everything goes wrong, and nothing that was promised is broken."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from sage_llm_ops.testing.chaos import ProcessFleet, run
from sage_llm_ops.testing.chaos.members import members
from tests.lmdeploy_env import lmdeploy_python

SECONDS = float(os.environ.get("SAGE_LLM_OPS_CHAOS_S", "20"))
SEED = 20261120
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(("vllm", "vllm"), id="vllm"),
        pytest.param(("vllm", "lmdeploy"), id="with-lmdeploy", marks=pytest.mark.lmdeploy),
    ],
)
def test_nothing_that_was_promised_is_broken(
    wanted: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    if "lmdeploy" in wanted:
        lmdeploy_python()
    with tempfile.TemporaryDirectory(prefix="sllo-", dir="/tmp") as short:
        folder = Path(short) / "t"  # its path is part of sockets' addresses
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        fleet = members(wanted)
        report = run(ProcessFleet(fleet, tmp_path), folder, SECONDS, SEED)
    assert not report.violations, "\n".join(report.lines())
    assert report.ends["completed"], "nobody was answered: this has shown nothing"
    assert {who for _, who in report.faults} == {instance.instance_id for instance in fleet}
