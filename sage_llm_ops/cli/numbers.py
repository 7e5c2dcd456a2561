"""Numbers as people read them, and the table of workers that several commands end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("requests", "tokens", "TTFT", "TPOT", "queue", "cached")
"""After the worker's name."""


def print_workers(
    table: Mapping[str, Mapping[str, Any]], title: str, console: Console | None = None
) -> None:
    """One row a worker and one for all, as `Metrics.table` gives them."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(
        title=f"{title}; times in ms, p50 / p95", box=box.SIMPLE_HEAD, title_justify="left"
    )
    drawn.add_column("worker", no_wrap=True)
    for name in COLUMNS:
        drawn.add_column(name, justify="right", no_wrap=True)
    for worker, row in table.items():
        last = worker == "total"
        drawn.add_row(worker, *_cells(row), style="bold" if last else None)
    (console or Console(highlight=False)).print(drawn)


def _cells(row: Mapping[str, Any]) -> list[str]:
    ended = row["completed"] + row["failed"] + row["cancelled"]
    spreads = (
        f"{milliseconds(row[f'{name}_p50_ms'])} / {milliseconds(row[f'{name}_p95_ms'])}"
        for name in ("ttft", "tpot", "queue")
    )
    return [f"{ended}", f"{row['output_tokens']}", *spreads, cached(row)]


def cached(row: Mapping[str, Any]) -> str:
    """Share of the prompt tokens that a prefix cache gave."""
    if not row["prompt_tokens"]:
        return "-"
    return f"{100.0 * row['cached_tokens'] / row['prompt_tokens']:.0f} %"


def milliseconds(value: float | None) -> str:
    """Three digits, from 0.01 on; a dash where nothing was measured."""
    if value is None:
        return "-"
    if value < 0.01:
        return "0"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    """A span as a person would say it."""
    if value < 0.0995:
        return f"{milliseconds(value * 1e3)} ms"
    return f"{value:.2f} s" if value < 100 else f"{value:.0f} s"


def count(number: int, noun: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
