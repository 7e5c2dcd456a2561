"""What `policy replay` found: a table for people, files for programs and papers."""

from __future__ import annotations

import csv as tables
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sage_llm_ops.cli.miss_curves import draw
from sage_llm_ops.cli.output import json_text
from sage_llm_ops.types.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from sage_llm_ops.pipeline.block_streams import BlockStream

BOUND = "belady"
"""The offline optimum: no policy is above it."""
BAR, WIDE = 20, 105
"""Columns of a full bar, and of a terminal that has room for it."""

Row = dict[str, Any]


def refuse_unwritable(**paths: Path | None) -> None:
    """Before the work, not after it."""
    for option, path in paths.items():
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"--{option} {path} is a directory; name a file in it")
        if not path.parent.is_dir():
            raise ConfigError(
                f"--{option} {path}: there is no directory {path.parent}; make it first"
            )


def write(result: dict[str, Any], *, csv: Path | None, out: Path | None, svg: Path | None) -> None:
    """The rows as CSV, everything as JSON, the miss ratios as a drawing."""
    rows: list[Row] = result["rows"]
    if out is not None:
        out.write_text(json_text(result) + "\n", encoding="utf-8")
    if csv is not None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with csv.open("w", encoding="utf-8", newline="") as file:
            writer = tables.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
    if svg is not None:
        svg.write_text(draw(rows, title=Path(result["trace"]).name), encoding="utf-8")


def show(result: dict[str, Any], stream: BlockStream) -> None:
    """For people."""
    from rich.console import Console

    requests = f" in {result['requests']:,} requests" if stream.chained else ""
    closed = ", prefixes closed" if result["closed"] else ""
    typer.echo(
        f"{stream.name}: {result['accesses']:,} accesses to {result['unique']:,} blocks"
        f"{requests}{closed}"
    )
    console = Console(highlight=False)
    console.print(_table(result["rows"], stream, bars=console.width >= WIDE))
    checked = result.get("check")
    if checked is not None:
        wrong = [row for row in checked if not row["equal"]]
        for row in wrong:
            typer.echo(
                f"{row['policy']} at {row['capacity']}: {row['hits']} hits, "
                f"the reference has {row['expected']}"
            )
        typer.echo(f"{len(checked) - len(wrong)} of {len(checked)} cells equal the reference")


def _table(rows: list[Row], stream: BlockStream, *, bars: bool) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    left = ("policy", "")
    for head in ("capacity", "policy", "hits", "prefix", "hit ratio", "of belady", "M acc./s", ""):
        if head != "prefix" or stream.chained:
            table.add_column(head, justify="left" if head in left else "right", no_wrap=True)
    for capacity in dict.fromkeys(row["capacity"] for row in rows):
        here = [row for row in rows if row["capacity"] == capacity]
        bound = next(row["hits"] for row in here if row["policy"] == BOUND)
        best = max((row["hits"] for row in here if row["policy"] != BOUND), default=0)
        label = f"{capacity:,} ({100.0 * capacity / stream.unique:.2g} %)"
        for row in here:
            first = 0 < row["hits"] == best and row["policy"] != BOUND and len(here) > 2
            speed, prefix = row.get("accesses_per_s"), row.get("prefix_hits")
            cells = [
                label,
                row["policy"],
                f"{row['hits']:,}",
                *(["-" if prefix is None else f"{prefix:,}"] if stream.chained else []),
                f"{100.0 * row['hit_ratio']:.2f} %",
                f"{100.0 * row['hits'] / bound:.1f} %" if bound else "-",
                "-" if speed is None else f"{speed / 1e6:.2f}",
                "█" * round(BAR * row["hit_ratio"] * bars) + (" best" if first else ""),
            ]
            table.add_row(*cells, style="bold" if first else None)
            label = ""
        table.add_section()
    return table
