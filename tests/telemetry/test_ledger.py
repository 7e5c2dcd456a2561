"""The ledger: a digest, a bounded memory, a bounded file."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.telemetry.ledger import Entry

ROWS, COSTS = np.array([0, 1]), np.array([0.5, 0.25])


def fill(ledger: Ledger, n: int, begin: int = 0) -> Ledger:
    ledger.fleet(1, 0.0, 1, ["w0", "w1"])
    for seq in range(begin, begin + n):
        ledger.place(seq, 0.1, f"r{seq}", 1, 1, ROWS, COSTS, policy="p@1", reason="why")
        ledger.retry(seq, 0.2, f"r{seq}", 1, "worker_lost", "it died")
        ledger.end(seq, 0.3, f"r{seq}", 2, "", "length", 8)
    return ledger


def lines(path: Path) -> list[Entry]:
    return [msgspec.json.decode(line, type=Entry) for line in path.read_bytes().splitlines()]


def test_equal_decisions_equal_digest() -> None:
    assert fill(Ledger(), 3).digest == fill(Ledger(keep=1), 3).digest
    assert fill(Ledger(), 3).decisions == 9


@pytest.mark.parametrize(
    "change",
    [
        lambda book: book.place(9, 0.1, "r", 1, 0, ROWS, COSTS),
        lambda book: book.place(9, 0.1, "r", 1, 1, ROWS[::-1].copy(), COSTS),
        lambda book: book.place(9, 0.1, "r", 1, 1, ROWS, COSTS * 2),
        lambda book: book.place(9, 0.1, "q", 1, 1, ROWS, COSTS),
        lambda book: book.place(9, 0.2, "r", 1, 1, ROWS, COSTS),
        lambda book: book.end(9, 0.1, "r", 1, "", "length", 8),
        lambda book: book.end(9, 0.1, "r", 1, "cancelled", "length", 8),
        lambda book: book.end(9, 0.1, "r", 1, "", "length", 9),
        lambda book: book.retry(9, 0.1, "r", 1, "worker_lost", "x"),
    ],
)
def test_another_decision_another_digest(change) -> None:
    one, other = fill(Ledger(), 1), fill(Ledger(), 1)
    one.place(9, 0.1, "r", 1, 1, ROWS, COSTS)
    change(other)
    assert one.digest != other.digest


def test_in_what_order_the_branches_of_a_dispatch_write_is_no_decision() -> None:
    """Chained operators run in another order than unchained ones, within one event."""
    one, other = fill(Ledger(), 1), fill(Ledger(), 1)
    one.place(9, 0.1, "r", 1, 1, ROWS, COSTS)
    one.end(9, 0.1, "q", 1, "cancelled", "", 0)
    other.end(9, 0.1, "q", 1, "cancelled", "", 0)
    other.place(9, 0.1, "r", 1, 1, ROWS, COSTS)
    assert one.digest == other.digest


def test_memory_is_bounded() -> None:
    ledger = fill(Ledger(keep=10), 100)
    assert ledger.about("r0") == []
    fleet, *found = ledger.about("r99")
    assert fleet.workers == ["w0", "w1"]
    assert [entry.kind for entry in found] == ["place", "retry", "end"]


def test_rows_mean_what_they_meant_when_the_entry_was_written() -> None:
    ledger = fill(Ledger(keep=4), 1)
    ledger.fleet(5, 0.4, 2, ["w9", "w1"])
    ledger.place(5, 0.5, "r0", 2, 0, ROWS, COSTS)
    told = ledger.about("r0")
    assert [entry.kind for entry in told] == ["fleet", "retry", "end", "fleet", "place"]
    assert [entry.workers for entry in told if entry.kind == "fleet"] == [
        ["w0", "w1"],
        ["w9", "w1"],
    ]
    assert told[-1].worker == "w9"


def test_the_file_rotates_and_begins_with_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    ledger = Ledger(path, max_bytes=100_000)
    for part in range(40):
        fill(ledger, 100, begin=part * 100)
        ledger.flush()
    ledger.close()
    old = path.with_name("ledger.jsonl.1")
    assert sorted(p.name for p in path.parent.iterdir()) == ["ledger.jsonl", "ledger.jsonl.1"]
    for file in (path, old):
        assert file.stat().st_size < 100_000 + (1 << 17)
        assert next(line.kind for line in lines(file) if line.kind != "run") == "fleet"
    assert lines(path)[-1].request == "r3999"


def test_closing_twice_and_reading_afterwards(tmp_path: Path) -> None:
    ledger = fill(Ledger(tmp_path / "l.jsonl"), 1)
    ledger.close()
    ledger.close()
    assert ledger.about("r0")
    kinds = [line.kind for line in lines(tmp_path / "l.jsonl")]
    assert kinds == ["run", "fleet", "place", "retry", "end"]


def test_a_restart_keeps_what_the_run_before_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    fill(Ledger(path), 2).close()
    fill(Ledger(path), 1, begin=5).close()
    kinds = [line.kind for line in lines(path)]
    assert kinds.count("run") == 2 and kinds[0] == "run"
    assert [line.request for line in lines(path) if line.kind == "end"] == ["r0", "r1", "r5"]
    assert all(line.wall > 0 for line in lines(path) if line.kind == "run")


@pytest.mark.parametrize("torn", [b'{"kind":"pla', b"x" * 200_000])
def test_a_line_that_a_killed_run_did_not_end_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "l.jsonl"
    fill(Ledger(path), 1).close()
    with path.open("ab") as file:
        file.write(torn)
    fill(Ledger(path), 1, begin=5).close()
    assert [line.request for line in lines(path) if line.kind == "end"] == ["r0", "r5"]
    path.write_bytes(torn)
    fill(Ledger(path), 1).close()
    assert lines(path)[0].kind == "run"


def test_the_bound_counts_what_was_there_before(tmp_path: Path) -> None:
    path = tmp_path / "l.jsonl"
    for _ in range(5):
        fill(Ledger(path, max_bytes=2000), 4).close()
    assert path.stat().st_size < 4000
    assert path.with_name("l.jsonl.1").is_file()


def test_a_file_that_cannot_be_written_is_given_up_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder should be")
    ledger = fill(Ledger(tmp_path / "taken" / "l.jsonl"), 3)
    ledger.flush()
    fill(ledger, 3, begin=3)
    ledger.close()
    assert ledger.digest == fill(fill(Ledger(), 3), 3, begin=3).digest
    assert ledger.about("r5")


def test_readers_may_look_while_the_graph_writes() -> None:
    ledger = fill(Ledger(), 2000)
    done = threading.Event()

    def write() -> None:
        seq = 2000
        while not done.is_set():
            fill(ledger, 50, begin=seq)
            seq += 50

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(100):
            ledger.about("r1999")
    finally:
        done.set()
        writer.join()
