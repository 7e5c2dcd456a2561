from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import runner
from benchmarks.metric import Metric, percentile

FIELDS = {"value", "unit", "n", "min", "max"}


def test_the_document_says_what_was_measured_where_and_how_often() -> None:
    def run(preset: str) -> dict[str, Metric]:
        return {f"{preset}_ms": Metric.of([3.0, 1.0, 2.0], "ms")}

    made = runner.document("fake", SimpleNamespace(WORKLOAD="a workload", run=run), "ci")
    assert made["suite"] == "fake"
    assert made["workload"] == "a workload"
    assert made["metrics"] == {
        "ci_ms": {"value": 2.0, "unit": "ms", "n": 3, "min": 1.0, "max": 3.0}
    }
    assert {"cpu", "cores", "python", "vllm", "torch", "isage", "loadavg"} <= set(made["machine"])
    assert made["machine"]["isage"] is not None
    assert {"loop_ns", "memcpy_gb_s"} == set(made["machine_score"])
    assert min(made["machine_score"].values()) > 0.0
    json.dumps(made)


def test_an_unknown_suite_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--suite", "pipelin"]) == 2
    said = capsys.readouterr().err
    assert "'pipelin'" in said
    assert all(name in said for name in runner.suites())


def test_every_suite_has_the_same_shape() -> None:
    known = {
        "adaptive",
        "lifetime",
        "migration",
        "overhead",
        "pipeline",
        "policy",
        "sim_core",
        "simulate",
    }
    known |= {"worker_core"}
    assert known <= set(runner.suites())
    for name in runner.suites():
        suite: Any = runner.load(name)
        assert isinstance(suite.WORKLOAD, str)
        assert set(runner.PRESETS) <= set(suite.SIZES)
        assert callable(suite.run)


def test_a_run_is_printed_and_written(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "report.json"
    assert runner.main(["--suite", "sim_core", "--out", str(out), "--json"]) == 0
    written = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == written
    assert all(set(metric) == FIELDS for metric in written["metrics"].values())
    runner.show(written)
    assert "sim_core_us_per_request" in capsys.readouterr().out


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0], 0.99) == 1.0
    assert percentile(list(map(float, range(100))), 0.99) == 99.0
