from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., int]


PIPELINE = str(pathlib.Path(__file__).parents[2] / "pipelines" / "serving.toml")


def simulate(call: Call, capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert call("simulate", PIPELINE, "--json", *argv) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_made_up_trace(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    found = simulate(call, capsys, "--requests", "60", "--instances", "2")
    assert found["requests"] == 60
    assert found["ends"] == {"completed": 60}
    assert found["ttft"]["p50"] <= found["ttft"]["p95"] <= found["ttft"]["p99"]
    assert found["tpot"]["p50"] > 0
    assert 0 < found["cached_share"] < 1
    assert {"sim0", "sim1", "total"} == set(found["workers"])
    assert found["real_us_per_request"] > 0
    again = simulate(call, capsys, "--requests", "60", "--instances", "2")
    assert again["digest"] == found["digest"]
    other = simulate(call, capsys, "--requests", "60", "--instances", "2", "--seed", "1")
    assert other["digest"] != found["digest"]


def test_a_trace_and_its_ledger(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, ledger = tmp_path / "t.jsonl", tmp_path / "ledger.jsonl"
    rows = [
        {"timestamp": 100 * n, "input_length": 700, "output_length": 5, "hash_ids": [1, 10 + n]}
        for n in range(6)
    ]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = simulate(call, capsys, "--trace", str(trace), "--limit", "4", "--ledger", str(ledger))
    assert found["requests"] == 4
    assert found["cached_share"] == pytest.approx(3 * 512 / (4 * 700))
    assert call("why", "t3", "--ledger", str(ledger)) == 0
    assert "t3 was answered with 5 tokens" in capsys.readouterr().out


def test_options_reach_the_engines(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    found = simulate(call, capsys, "--requests", "20", "--option", "prefix_cache=false")
    assert found["cached_share"] == 0.0
    slow = simulate(call, capsys, "--requests", "20", "--option", "speed=0.5")
    assert slow["tpot"]["p50"] > 1.5 * found["tpot"]["p50"]


def test_why_requests_failed_is_said(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("simulate", PIPELINE, "--requests", "3", "--option", "block_size=500") == 0
    out = capsys.readouterr().out
    assert "3 requests of a made-up trace: 3 invalid_request" in out
    assert "set the engine's block_size to a divisor" in out


def test_text(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("simulate", PIPELINE, "--requests", "10") == 0
    captured = capsys.readouterr()
    assert "10 requests of a made-up trace: 10 completed" in captured.out
    assert "digest of 20 decisions: " in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--limit", "3"], "--limit 3 has no meaning without --trace"),
        (["--trace", "t", "--seed", "3"], "--seed 3 has no meaning with --trace"),
        (["--trace", "missing.jsonl"], "no such trace file"),
        (["--option", "speed"], "must be KEY=VALUE"),
        (["--option", "sped=2"], "did you mean 'speed'"),
        (["--rate", "0"], "rate above 0"),
    ],
)
def test_refusals(
    call: Call, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("simulate", PIPELINE, *argv) == 2
    assert words in capsys.readouterr().err
