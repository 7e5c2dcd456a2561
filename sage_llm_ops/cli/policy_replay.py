"""`sage-llm-ops policy replay TRACE`: eviction policies side by side on a recorded workload."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_llm_ops.cli.output import Json, json_text

if TYPE_CHECKING:
    from sage_llm_ops.kv_policy.eviction import EvictionPolicy
    from sage_llm_ops.pipeline.block_streams import BlockStream

SHARES = (0.01, 0.05, 0.10, 0.30)
"""Of the different blocks, where no capacity is given."""
Row = dict[str, Any]


def replay(
    trace: Annotated[Path, typer.Argument(help="A Mooncake trace, or block ids one a line.")],
    policy: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME:key=value; repeatable. Without it, every policy."),
    ] = None,
    capacity: Annotated[
        list[str] | None,
        typer.Option(help="Blocks (5000) or a share of the different ones (0.1); repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many requests.")] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="No block outlives the one before it.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the rows there.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write everything there, as JSON.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw miss ratio over capacity there.")] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Compare with reference results; exit code 1 if one differs."),
    ] = None,
    json: Json = False,
) -> None:
    """Replay a trace under eviction policies and compare their hits."""
    from sage_llm_ops.cli.policy_report import refuse_unwritable, show, write
    from sage_llm_ops.kv_policy.eviction import POLICIES
    from sage_llm_ops.pipeline.block_streams import read_blocks
    from sage_llm_ops.types.errors import ConfigError

    refuse_unwritable(csv=csv, out=out, svg=svg)
    stream = read_blocks(trace, limit)
    if closed and not stream.chained:
        raise ConfigError("--closed needs a trace of requests; ids in a list continue nothing")
    rooms = [_blocks(text, stream.unique) for text in capacity or ()]
    if not rooms:
        rooms = sorted({max(1, int(share * stream.unique)) for share in SHARES})
    rows = _rows(stream, policy or list(POLICIES), rooms, closed)
    result: dict[str, Any] = {
        "trace": str(trace),
        "digest": stream.digest(),
        "requests": len(stream.requests),
        "accesses": len(stream.keys),
        "unique": stream.unique,
        "closed": closed,
        "rows": rows,
    }
    differs = False
    if check is not None:
        result["check"] = _checked(check, stream, rows, closed)
        differs = any(not row["equal"] for row in result["check"])
    write(result, csv=csv, out=out, svg=svg)
    if json:
        typer.echo(json_text(result))
    else:
        show(result, stream)
    if differs:
        raise typer.Exit(1)


def _blocks(text: str, unique: int) -> int:
    """As the reference results count: the integer part of the share."""
    from sage_llm_ops.types.errors import ConfigError

    try:
        blocks = int(float(text) * unique) if "." in text else int(text)
    except ValueError:
        blocks = 0
    if blocks < 1:
        raise ConfigError(
            f"--capacity {text!r} of {unique} different blocks is not one block; "
            "give a number as 5000, or a share as 0.1"
        )
    return blocks


def _make(given: str, capacity: int, closed: bool) -> EvictionPolicy:
    from sage_llm_ops.config.overrides import value_of
    from sage_llm_ops.kv_policy.eviction import Rules, eviction_policy
    from sage_llm_ops.types.errors import ConfigError

    name, _, rest = given.partition(":")
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--policy {given!r}: {pair!r} must be key=value")
        options[key] = value_of(text)
    return eviction_policy(name, capacity, Rules(closed=True) if closed else None, **options)


def _rows(stream: BlockStream, policies: list[str], rooms: list[int], closed: bool) -> list[Row]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from sage_llm_ops.cli.policy_report import BOUND
    from sage_llm_ops.kv_policy.eviction.belady import belady_hits

    for given in policies:
        _make(given, rooms[0], closed)  # a wrong name is refused before the work starts
    rows: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(32), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(rooms) * (len(policies) + 1))
        for room in rooms:
            for given in policies:
                progress.update(task, description=f"{given} {room}")
                rows.append(_row(stream, given, room, closed))
                progress.advance(task)
            progress.update(task, description=f"{BOUND} {room}")
            hits = belady_hits(stream.keys, room)
            rows.append(_shares({"policy": BOUND, "capacity": room, "hits": hits}, stream))
            progress.advance(task)
    return rows


def _row(stream: BlockStream, given: str, room: int, closed: bool) -> Row:
    import time

    from sage_llm_ops.kv_policy.eviction.replay import Hits, replay_closed, replay_request

    policy, counts = _make(given, room, closed), Hits()
    one = replay_closed if closed else replay_request
    began = time.perf_counter()
    if stream.chained:
        for blocks in stream.requests:
            one(policy, blocks, counts)
    else:
        counts.hits = policy.replay(stream.keys)
    spent = time.perf_counter() - began
    row = {"policy": given, "capacity": room, "hits": counts.hits}
    if stream.chained:
        row["prefix_hits"] = counts.prefix_hits
    return {**_shares(row, stream), "accesses_per_s": len(stream.keys) / spent if spent else None}


def _shares(row: Row, stream: BlockStream) -> Row:
    ratio = row["hits"] / len(stream.keys) if stream.keys else 0.0
    return {**row, "hit_ratio": ratio, "miss_ratio": 1.0 - ratio}


REFERENCE = {
    "fifo": "FIFO",
    "lru": "LRU",
    "lfu": "LFU",
    "arc": "ARC",
    "s3fifo": "S3FIFO",
    "s3fifo:warm_up=full": "S3FIFO",
    "s3fifo:warm_up=paper": "S3FIFO_paper_warmup",
    "belady": "Belady_upper_bound",
}


def _checked(file: Path, stream: BlockStream, rows: list[Row], closed: bool) -> list[Row]:
    """Each row that the reference has; where its two implementations differ, the independent one."""
    import msgspec

    from sage_llm_ops.types.errors import ConfigError

    if closed:
        raise ConfigError("--check has no reference for --closed")
    try:
        known = msgspec.json.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"no reference results: {error}", file=str(file)) from None
    same = (c for c in known.values() if c.get("access_stream_sha256_u64le") == stream.digest())
    cells = {cell["capacity"]: cell for cell in next(same, {"sizes": {}})["sizes"].values()}
    found = []
    for row in rows:
        cell = cells.get(row["capacity"], {}).get(REFERENCE.get(row["policy"], ""))
        if cell is not None:
            expected = cell.get("own_hits", cell["hits"])
            found.append({**row, "expected": expected, "equal": expected == row["hits"]})
    if not found:
        raise ConfigError("no cell is of this stream and these capacities", file=str(file))
    return found
