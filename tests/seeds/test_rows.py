"""The table itself: every block of the documents has a row, every row a sample and a test."""

from __future__ import annotations

import ast

import pytest

from tests.seeds import test_programs, test_shapes
from tests.seeds.rows import ROWS, SAMPLES, Kind, Row, text

BLOCKS = {"000": 3, "001": 6, "002": 13, "003": 2}
"""Python blocks of each document; 003 has a TOML block besides."""

names = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_every_block_has_a_row_in_order() -> None:
    expected = [
        f"{doc}-{number}" for doc, count in BLOCKS.items() for number in range(1, count + 1)
    ]
    assert [row.name for row in ROWS] == [*expected, "003-toml"]


def test_no_sample_without_a_row() -> None:
    written = {path.name.removesuffix(".py.txt") for path in SAMPLES.iterdir()}
    assert written == {row.name for row in ROWS if row.kind is not Kind.FILE}


@names
def test_every_row_is_tested(row: Row) -> None:
    stem = f"test_{row.name.replace('-', '_')}"
    tests = [name for module in (test_programs, test_shapes) for name in vars(module)]
    found = any(name == stem or name.startswith(f"{stem}_") for name in tests)
    assert found == (row.kind is not Kind.PROSE)


@names
def test_samples_use_our_import_root(row: Row) -> None:
    assert "control_plane import" not in text(row.name)
    if row.kind not in (Kind.FILE, Kind.PROSE):
        compile(text(row.name), row.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
