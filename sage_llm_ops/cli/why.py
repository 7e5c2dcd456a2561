"""`sage-llm-ops why REQUEST_ID`: what was decided about one request, from the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sage_llm_ops.cli.output import Json, print_result


def why(
    request_id: Annotated[str, typer.Argument(help="The request's id.")],
    ledger: Annotated[Path, typer.Option("--ledger", help="The ledger's JSON lines.")],
    json: Json = False,
) -> None:
    """Show the decisions about one request, in order."""
    from sage_llm_ops.types.errors import UnknownRequest

    mine = [record for record in read_records(ledger) if record.get("request") == request_id]
    if not mine:
        raise UnknownRequest(f"{ledger} holds nothing about it", request_id=request_id)
    mine.sort(key=lambda record: record.get("seq", 0))
    print_result(mine, lambda: explain(mine), json=json)


def explain(records: Sequence[dict[str, Any]]) -> str:
    """One line per record: time since the first, kind, and everything else it says."""
    from sage_llm_ops.cli.graph_text import options_text

    start = records[0].get("now", 0.0)
    lines = []
    for record in records:
        rest = {k: v for k, v in record.items() if k not in ("request", "seq", "now", "kind")}
        at = record.get("now", start) - start
        lines.append(f"{at:+10.6f} s  {record.get('kind', '?'):12}  {options_text(rest)}".rstrip())
    return "\n".join(lines)


def read_records(ledger: Path) -> Iterator[dict[str, Any]]:
    """The ledger's records. A last line without its end was being written: it is left out."""
    import msgspec

    from sage_llm_ops.types.errors import ConfigError

    try:
        with ledger.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield msgspec.json.decode(line, type=dict[str, Any])
                except msgspec.DecodeError as error:
                    raise ConfigError(
                        f"not a ledger's JSON line: {error}", file=str(ledger), line=number
                    ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(ledger)) from None
