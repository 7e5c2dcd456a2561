"""Half a minute of `make chaos`: everything goes wrong, and nothing that was promised is broken."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from sage_llm_ops.testing.chaos import ProcessFleet, run
from tests.e2e.fleet import instance

SECONDS = float(os.environ.get("SAGE_LLM_OPS_CHAOS_S", "20"))
SEED = 20261120
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_nothing_that_was_promised_is_broken(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="sllo-", dir="/tmp") as short:
        folder = Path(short) / "t"  # its path is part of sockets' addresses
        folder.mkdir()
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        instances = [instance("w0", tiny), instance("w1", tiny)]
        report = run(ProcessFleet(instances, tmp_path, "vllm"), folder, SECONDS, SEED)
    assert not report.violations, "\n".join(report.lines())
    assert report.ends["completed"] > 50
    assert report.faults.total() >= 4
