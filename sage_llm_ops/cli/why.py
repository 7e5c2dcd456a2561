"""`sage-llm-ops why REQUEST_ID`: what was decided about one request, and of what it was made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage_llm_ops.cli.output import Json, print_result

if TYPE_CHECKING:
    from sage_llm_ops.telemetry.ledger import Entry

DEFAULT_LEDGERS = (".sage-llm-ops/ledger.jsonl", ".demo/ledger.jsonl")
"""Where `run` and `demo` write, from the directory they are called in."""


def why(
    request_id: Annotated[str, typer.Argument(help="The request's id.")],
    ledger: Annotated[
        Path | None, typer.Option("--ledger", help="Default: what `run` or `demo` wrote last.")
    ] = None,
    json: Json = False,
) -> None:
    """Tell what was decided about a request: where it went, what else it could have cost, why."""
    from sage_llm_ops.cli.story import tell
    from sage_llm_ops.types.errors import UnknownRequest

    path = ledger or latest_ledger()
    mine = about(request_id, read_ledger(path))
    if not mine:
        raise UnknownRequest(f"{path} holds nothing about it", request_id=request_id)
    if ledger is None:
        typer.echo(f"(from {path})", err=True)
    print_result([entry for _, entry in mine], lambda: tell(mine), json=json)


def about(request_id: str, entries: Iterator[Entry]) -> list[tuple[list[str], Entry]]:
    """The request's entries, each with the fleet that its rows mean; of the last run that knew it,
    where several are in the file."""
    fleet: list[str] = []
    mine: list[tuple[list[str], Entry]] = []
    run = known = 0
    for entry in entries:
        if entry.kind == "run":
            run += 1
        elif entry.kind == "fleet":
            fleet = entry.workers
        elif entry.request == request_id:
            if run != known:
                mine, known = [], run
            mine.append((fleet, entry))
    return mine


def latest_ledger() -> Path:
    """The default ledger that was written last."""
    from sage_llm_ops.types.errors import ConfigError

    found = [path for path in map(Path, DEFAULT_LEDGERS) if path.is_file()]
    if not found:
        raise ConfigError(
            f"no ledger here ({' or '.join(DEFAULT_LEDGERS)}): name one with --ledger, or make one "
            "with `sage-llm-ops demo` or `sage-llm-ops run`"
        )
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def read_ledger(path: Path) -> Iterator[Entry]:
    """What a ledger holds, oldest first: the file it was rotated to, then itself."""
    older = path.with_name(path.name + ".1")
    if older.is_file() and path.is_file():
        yield from _read(older)
    yield from _read(path)


def _read(path: Path) -> Iterator[Entry]:
    """A last line without its end was being written: it is left out."""
    import msgspec

    from sage_llm_ops.telemetry.ledger import Entry
    from sage_llm_ops.types.errors import ConfigError

    decode = msgspec.json.Decoder(Entry).decode
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield decode(line)
                except msgspec.DecodeError as error:
                    raise ConfigError(
                        f"not a ledger's JSON line: {error}", file=str(path), line=number
                    ) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from None
