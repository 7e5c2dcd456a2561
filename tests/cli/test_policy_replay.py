from __future__ import annotations

import csv
import gzip
import json
import pathlib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., int]


@pytest.fixture
def mooncake(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "t.jsonl"
    prompts = [[1, 2, 3], [1, 2, 4], [1, 5], [1, 2, 3], [6, 7], [1, 2, 4]]
    rows = [
        {"timestamp": n, "input_length": 512 * len(ids), "output_length": 5, "hash_ids": ids}
        for n, ids in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def ids(tmp_path: pathlib.Path) -> str:
    path = tmp_path / "loop.trace.gz"
    with gzip.open(path, "wt") as file:
        file.write("*\n" + "".join(f"{n % 20}\n" for n in range(200)))
    return str(path)


def result(call: Call, capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert call("policy", "replay", *argv, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_policies_side_by_side(
    call: Call, mooncake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(call, capsys, mooncake, "--policy", "lru", "--policy", "fifo", "--capacity", "4")
    assert (found["accesses"], found["unique"], found["requests"]) == (16, 7, 6)
    rows = {row["policy"]: row for row in found["rows"]}
    assert list(rows) == ["lru", "fifo", "belady"]
    assert rows["lru"]["hits"] <= rows["belady"]["hits"]
    assert rows["lru"]["hits"] == rows["lru"]["prefix_hits"] + 0
    assert rows["lru"]["hit_ratio"] + rows["lru"]["miss_ratio"] == 1.0


def test_every_policy_and_what_is_written(
    call: Call, ids: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, doc, drawing = tmp_path / "r.csv", tmp_path / "r.json", tmp_path / "r.svg"
    written = ("--csv", str(table), "--out", str(doc), "--svg", str(drawing))
    rooms = ("--capacity", "0.5", "--capacity", "3")
    assert call("policy", "replay", ids, *rooms, *written) == 0
    captured = capsys.readouterr()
    assert "loop: 200 accesses to 20 blocks\n" in captured.out
    assert "prefix" not in captured.out  # a list of ids has none
    assert "10 (50 %)" in captured.out
    assert " best" in captured.out
    assert max(map(len, captured.out.splitlines())) <= 80
    rows = json.loads(doc.read_text())["rows"]
    assert {row["capacity"] for row in rows} == {10, 3}
    assert {"adaptive", "arc", "belady", "s3fifo"} <= {row["policy"] for row in rows}
    with table.open() as file:
        assert [int(row["hits"]) for row in csv.DictReader(file)] == [row["hits"] for row in rows]
    assert ET.parse(drawing).getroot().tag.endswith("svg")


def test_closed_prefixes_hit_only_what_is_reachable(
    call: Call, mooncake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result(call, capsys, mooncake, "--closed", "--capacity", "4", "--policy", "lfu")
    row = found["rows"][0]
    assert row["hits"] == row["prefix_hits"] > 0


def test_the_check_against_reference_results(
    call: Call, ids: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms = ("--capacity", "10", "--policy", "lru", "--policy", "s3fifo:warm_up=paper")
    found = result(call, capsys, ids, *rooms)
    hits = {row["policy"]: row["hits"] for row in found["rows"]}
    cell = {
        "capacity": 10,
        "LRU": {"hits": -1, "own_hits": hits["lru"], "agree": False},
        "S3FIFO_paper_warmup": {"hits": hits["s3fifo:warm_up=paper"]},
    }
    known = {"x": {"access_stream_sha256_u64le": found["digest"], "sizes": {"0.5": cell}}}
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(known))
    assert call("policy", "replay", ids, *rooms, "--check", str(file)) == 0
    assert "2 of 2 cells equal the reference" in capsys.readouterr().out
    cell["LRU"]["own_hits"] += 1  # type: ignore[index]
    file.write_text(json.dumps(known))
    assert call("policy", "replay", ids, *rooms, "--check", str(file)) == 1
    assert "1 of 2 cells equal the reference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--policy", "lur"], "did you mean 'lru'"),
        (["--policy", "lru:x"], "must be key=value"),
        (["--capacity", "0.001"], "is not one block"),
        (["--capacity", "many"], "give a number"),
        (["--closed"], "continue nothing"),
        (["--svg", "no/such/place.svg"], "there is no directory no/such"),
        (["--csv", "."], "is a directory"),
    ],
)
def test_refusals(
    call: Call, ids: str, argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("policy", "replay", ids, *argv) == 2
    assert words in capsys.readouterr().err


def test_files_that_are_no_block_trace(
    call: Call, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "x.trace"
    broken.write_text("1\n2\nthree\n")
    assert call("policy", "replay", str(broken)) == 2
    assert "x.trace:3" in capsys.readouterr().err
    assert call("policy", "replay", str(tmp_path / "missing")) == 2
    assert "no such trace file" in capsys.readouterr().err
