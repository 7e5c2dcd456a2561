"""The scanner finds every path that tomllib finds, on the line where it was written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.config.toml_lines import Path, key_lines
from sage_llm_ops.config.toml_writer import key_text, value_text

TRICKY = '''# first line is a comment
top = 1 # "not a string"
"quo.ted" = 2
'lit"eral'.x = 3
a . b . "c" = 4
many = [
  1, # ] not the end
  [2, 3],
  { deep = [4], text = "}," },
]
long = """
[not.a.table]
x = 1 \\""" still in
"quotes at the end"""""
raw = \'\'\'
[[neither]]
\'\'\'\'
date = 1979-05-27 07:32:00
after = true

[t]
x = 1
[t.sub."k.k"]
y = 2
[[row]]
id = "r0"
[row.opt]
z = 1
[[row.leaf]]
[[row.leaf]]
n = 1
[[row]]
[row.opt]
z = 2
[late.implied]
[late]
own = 1
'''


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every path of a parsed document."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, below in items:
        yield (*path, key)
        yield from paths(below, (*path, key))


@pytest.mark.parametrize(
    ("path", "start"),
    [
        (("top",), "top = 1"),
        (("quo.ted",), '"quo.ted"'),
        (('lit"eral', "x"), "'lit\"eral'.x"),
        (("a", "b", "c"), "a . b"),
        (("many",), "many"),
        (("many", 0), "  1, #"),
        (("many", 1, 1), "  [2, 3]"),
        (("many", 2), "  { deep"),
        (("many", 2, "text"), "  { deep"),
        (("raw",), "raw"),
        (("date",), "date"),
        (("after",), "after"),
        (("t",), "[t]"),
        (("t", "sub", "k.k", "y"), "y = 2"),
        (("row",), "[[row]]"),
        (("row", 0, "id"), 'id = "r0"'),
        (("row", 0, "leaf", 1, "n"), "n = 1"),
        (("row", 1, "opt", "z"), "z = 2"),
        (("late", "implied"), "[late.implied]"),
        (("late",), "[late]"),
    ],
)
def test_line_of(path: Path, start: str) -> None:
    line = key_lines(TRICKY)[path]
    assert TRICKY.splitlines()[line - 1].startswith(start)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_path_has_a_line(newline: str) -> None:
    text = TRICKY.replace("\n", newline)
    assert set(key_lines(text)) == set(paths(tomllib.loads(text)))


KEYS = st.text(min_size=1, max_size=6) | st.sampled_from(["a", "b", "a.b", "[x]", '"', "#"])
LEAVES = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(["]", "}", "# no", "a = 1\n[b]", "'''", '"""', "\\"])
    | st.datetimes()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
BLANKS = st.sampled_from(["", "\n", "  # = [comment]\n", "\t\n\n"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    """A TOML text of tables and arrays of tables, and the lines known from writing it."""
    text = ""
    known: dict[Path, int] = {}

    def write(path: Path | None, code: str) -> None:
        nonlocal text
        text += draw(BLANKS)
        if path is not None:
            known[path] = text.count("\n") + 1
        text += code + "\n"

    def body(path: Path) -> None:
        for key, value in draw(st.dictionaries(KEYS, VALUES, max_size=3)).items():
            end = draw(st.sampled_from(["", " # end ]", " "]))
            write((*path, key), f"{key_text(key)} = {value_text(value, key)}{end}")

    for name, rows in draw(st.dictionaries(KEYS, st.integers(0, 3), max_size=3)).items():
        if rows == 0:
            write((name,), f"[{key_text(name)}]")
            body((name,))
        for index in range(rows):
            write((name, index), f"[[ {key_text(name)} ]]")
            body((name, index))
    return text, known


@given(documents())
@settings(max_examples=150, deadline=None)
def test_lines_of_generated_documents(document: tuple[str, dict[Path, int]]) -> None:
    text, known = document
    lines = key_lines(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    assert {path: lines[path] for path in known} == known


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_written_values_read_back(value: Any) -> None:
    assert tomllib.loads(f"v = {value_text(value, 'v')}")["v"] == value
