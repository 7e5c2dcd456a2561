from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import msgspec
import pytest

from sage_llm_ops.telemetry.ledger import Entry

Call = Callable[..., int]

FLEET = Entry("fleet", 1, 9.0, fleet=2, workers=["w0", "w1", "w2"])
PLACE = Entry(
    "place",
    5,
    10.5,
    "r1",
    1,
    "w0",
    policy="least@1",
    reason="least loaded",
    rows=[0, 1],
    costs=[0.25, 0.5],
    hits={"w0": 32, "w1": 0},
    waited_s=0.5,
    unit="share",
)
LOST = Entry("retry", 6, 11.0, "r1", 1, code="worker_lost", reason="killed; its log ends:\nnoise")
AGAIN = Entry(
    "place",
    6,
    11.0,
    "r1",
    2,
    "w1",
    policy="least@1",
    reason="least loaded",
    rows=[1],
    costs=[0.5],
    waited_s=1.0,
    unit="share",
)
END = Entry("end", 9, 12.0, "r1", 2, reason="length", tokens=64)


def write(path: pathlib.Path, *entries: Entry, rest: str = "") -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(msgspec.json.encode(e).decode() + "\n" for e in entries) + rest)
    return path


def test_the_whole_story(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Entry("end", 7, 11.5, "r0", 1, tokens=1)
    ledger = write(tmp_path / "l", FLEET, PLACE, LOST, AGAIN, other, END, rest='{"kind": "torn')
    assert call("why", "r1", "--ledger", str(ledger)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "r1 was answered with 64 tokens in 2.00 s, by w0 and then w1, in 2 attempts.",
        "",
        "   +0.000 s  arrived",
        "   +0.500 s  attempt 1 → w0: least loaded (least@1, 0.50 s in the queue)",
        "                 w0      0.25 share, 32 prompt tokens to reuse  ← chosen",
        "                 w1       0.5 share, 0 prompt tokens to reuse",
        "                 w2: no candidate (down, full, breaker open, or it failed it before)",
        "   +1.000 s  attempt 1 failed (worker_lost): killed",
        "             it was put back at its old place in the queue",
        "   +1.000 s  attempt 2 → w1: least loaded (least@1, 1.00 s since it arrived)",
        "                 w1       0.5 share  ← chosen",
        "                 w0, w2: no candidate (down, full, breaker open, or it failed it before)",
        "   +2.000 s  completed: 64 tokens, its token limit was reached",
    ]


def test_ends_of_other_kinds(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = Entry("end", 2, 9.5, "r2", 0, code="overloaded", reason="too many wait")
    ledger = write(tmp_path / "l", FLEET, refused, PLACE)
    assert call("why", "r2", "--ledger", str(ledger)) == 0
    out = capsys.readouterr().out
    assert "r2 ended as overloaded" in out
    assert "0 attempts on no worker" in out
    assert "ended: overloaded: too many wait" in out
    assert call("why", "r1", "--ledger", str(ledger)) == 0
    assert "has not ended in this ledger" in capsys.readouterr().out


def test_a_rotated_ledger_is_read_with_what_came_before(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "l.1", FLEET, PLACE, LOST)
    write(tmp_path / "l", FLEET, AGAIN, END)
    assert call("why", "r1", "--json", "--ledger", str(tmp_path / "l")) == 0
    kinds = [entry["kind"] for entry in json.loads(capsys.readouterr().out)]
    assert kinds == ["place", "retry", "place", "end"]


def test_the_default_is_what_was_written_last(
    call: Call,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("why", "r1") == 2
    assert "name one with --ledger" in capsys.readouterr().err
    write(tmp_path / ".demo" / "ledger.jsonl", FLEET, PLACE, END)
    assert call("why", "r1") == 0
    captured = capsys.readouterr()
    assert captured.err == "(from .demo/ledger.jsonl)\n"
    assert "r1 was answered" in captured.out


def test_refusals(call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "ledger.jsonl"
    assert call("why", "r1", "--ledger", str(ledger)) == 2
    assert "cannot be read" in capsys.readouterr().err
    write(ledger, FLEET, rest="not json\n")
    assert call("why", "r1", "--ledger", str(ledger)) == 2
    assert f"{ledger}:2: not a ledger's JSON line" in capsys.readouterr().err
    write(ledger, FLEET)
    assert call("why", "r1", "--ledger", str(ledger)) == 2
    assert "request 'r1'" in capsys.readouterr().err


def test_a_trace_is_shown(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traced = msgspec.structs.replace(PLACE, trace="00-4bf9-00f0-01")
    assert call("why", "r1", "--ledger", str(write(tmp_path / "l", FLEET, traced, END))) == 0
    assert "traced as 00-4bf9-00f0-01" in capsys.readouterr().out.splitlines()


def test_of_several_runs_in_a_file_the_last_that_knew_it_is_told(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, new = Entry("run", 0, 0.0, wall=1.0), Entry("fleet", 1, 1.0, fleet=1, workers=["new"])
    again = Entry(
        "place", 5, 2.0, "r1", 1, "new", policy="p@1", reason="why", rows=[0], costs=[0.0]
    )
    last = Entry("end", 9, 3.0, "r1", 1, reason="length", tokens=3)
    other = Entry("end", 2, 9.5, "r2", 1, reason="length", tokens=1)
    ledger = write(tmp_path / "l", run, FLEET, PLACE, END, run, new, again, last, run, FLEET, other)
    assert call("why", "r1", "--ledger", str(ledger)) == 0
    told = capsys.readouterr().out
    assert told.startswith("r1 was answered with 3 tokens in 1.00 s, by new")
    assert "w0" not in told
