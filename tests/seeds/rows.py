"""The code samples of the founding documents, one row each, and how each is held to.

`samples/NAME.py.txt` is the block as the document has it, with our import root.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"


class Kind(Enum):
    PROGRAM = "run as it stands, or after a prelude that defines what the block does not"
    SHAPE = "a signature, not a program: compared with ours"
    FILE = "read by our loader"
    PROSE = "not a program: nothing to run"


@dataclass(frozen=True)
class Row:
    name: str
    lines: str
    kind: Kind


ROWS = (
    Row("000-1", "142-162", Kind.PROGRAM),
    Row("000-2", "194-196", Kind.PROSE),
    Row("000-3", "201-203", Kind.PROSE),
    Row("001-1", "70-85", Kind.PROGRAM),
    Row("001-2", "99-126", Kind.PROGRAM),
    Row("001-3", "144", Kind.PROGRAM),
    Row("001-4", "158-163", Kind.PROGRAM),
    Row("001-5", "171-175", Kind.PROGRAM),
    Row("001-6", "199-241", Kind.PROGRAM),
    Row("002-1", "66-180", Kind.PROGRAM),
    Row("002-2", "190-271", Kind.PROGRAM),
    Row("002-3", "279-376", Kind.PROGRAM),
    Row("002-4", "436-471", Kind.SHAPE),
    Row("002-5", "479-507", Kind.SHAPE),
    Row("002-6", "515-535", Kind.SHAPE),
    Row("002-7", "543-557", Kind.SHAPE),
    Row("002-8", "565-573", Kind.SHAPE),
    Row("002-9", "581-597", Kind.SHAPE),
    Row("002-10", "605-617", Kind.SHAPE),
    Row("002-11", "625-642", Kind.PROGRAM),
    Row("002-12", "648-702", Kind.PROGRAM),
    Row("002-13", "708-754", Kind.PROGRAM),
    Row("003-1", "29-83", Kind.PROSE),
    Row("003-2", "91-109", Kind.PROSE),
    Row("003-toml", "138-159", Kind.FILE),
)
"""003-1 awaits where SAGE calls synchronously, 003-2 is SAGE's own class: neither is ours to run."""

BY_NAME = {row.name: row for row in ROWS}


def text(name: str) -> str:
    """The block of a row."""
    if BY_NAME[name].kind is Kind.FILE:
        return (HERE.parent / "config" / "003_services.toml").read_text("utf-8")
    return (SAMPLES / f"{name}.py.txt").read_text("utf-8")
