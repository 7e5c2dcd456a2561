"""Reads recorded workloads: Mooncake JSONL and Azure CSV, plain or zstd-compressed.

A reader of files, nothing more: it knows neither the graph nor a fleet. The format is found by
looking into the file, not by its name.

    Mooncake  {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [block, ...]}
    Azure     TIMESTAMP,ContextTokens,GeneratedTokens   (timestamps are times of day)
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import msgspec

from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request, SamplingParams

MOONCAKE_BLOCK = 512
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
AZURE_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One recorded request, without its text."""

    at: float
    """Seconds since the first request of the file."""
    n_prompt: int
    n_output: int
    blocks: tuple[int, ...] = ()
    """Ids of the prompt's blocks; an id stands for the block and everything before it."""
    block_size: int = 0


class _MooncakeLine(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def to_request(trace: TraceRequest, index: int, model: str) -> Request:
    """As the graph wants it: no tokens, greedy, exactly as many tokens out as recorded."""
    return Request(
        id=RequestId(f"t{index}"),
        model=model,
        tokens=b"",
        n_prompt=trace.n_prompt,
        sampling=SamplingParams(max_tokens=trace.n_output, temperature=0.0),
        blocks=trace.blocks,
        block_size=trace.block_size,
    )


def read_trace(path: str | Path, limit: int | None = None) -> Iterator[TraceRequest]:
    """The requests of a file in its order, at most `limit` of them.

    Raises `ConfigError` with file, line and value for what cannot be read. A file that is not there
    or is no trace at all is refused here, a broken line where it is reached.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(
            "no such trace file; give the path of a .jsonl or .csv trace", file=str(file)
        )
    with _lines(file) as lines:
        first = lines.readline().strip("\ufeff \r\n")
    if first.startswith("{"):
        return _read(file, limit, _mooncake)
    if tuple(next(csv.reader([first]), ())) == AZURE_HEADER:
        return _read(file, limit, _azure)
    raise ConfigError(
        f"first line {first[:80]!r} is of no known trace; known are Mooncake JSON lines and "
        f"CSV with the header {','.join(AZURE_HEADER)}",
        file=str(file),
        line=1,
    )


_Parser = Callable[[str], TraceRequest | None]


def _read(file: Path, limit: int | None, parse: _Parser) -> Iterator[TraceRequest]:
    start = last = 0.0
    count = 0
    with _lines(file) as lines:
        for number, raw in enumerate(lines, 1):
            if limit is not None and count >= limit:
                return
            line = raw.strip("\ufeff \r\n")
            if not line:
                continue
            try:
                found = parse(line)
            except (ValueError, msgspec.DecodeError) as error:
                raise ConfigError(
                    f"{error} in {line[:120]!r}", file=str(file), line=number
                ) from None
            if found is None:
                continue
            if not count:
                start = last = found.at
            if found.at < last:
                raise ConfigError(
                    f"time {found.at!r} is before that of the line above ({last!r}); sort the file",
                    file=str(file),
                    line=number,
                )
            last = found.at
            count += 1
            yield TraceRequest(
                found.at - start, found.n_prompt, found.n_output, found.blocks, found.block_size
            )


_decode_mooncake = msgspec.json.Decoder(_MooncakeLine).decode


def _mooncake(line: str) -> TraceRequest:
    row = _decode_mooncake(line)
    _require_positive("input_length", row.input_length)
    _require_positive("output_length", row.output_length)
    needed = -(-row.input_length // MOONCAKE_BLOCK)
    if len(row.hash_ids) != needed:
        raise ValueError(
            f"{len(row.hash_ids)} hash_ids for input_length={row.input_length}: "
            f"{needed} of {MOONCAKE_BLOCK} tokens expected"
        )
    return TraceRequest(
        row.timestamp / 1000.0, row.input_length, row.output_length, row.hash_ids, MOONCAKE_BLOCK
    )


def _azure(line: str) -> TraceRequest | None:
    cells = line.split(",")
    if tuple(cells) == AZURE_HEADER:
        return None
    if len(cells) != len(AZURE_HEADER):
        raise ValueError(f"{len(cells)} cells, {len(AZURE_HEADER)} expected")
    prompt, output = int(cells[1]), int(cells[2])
    _require_positive("ContextTokens", prompt)
    _require_positive("GeneratedTokens", output)
    return TraceRequest(_azure_time(cells[0]), prompt, output)


def _azure_time(text: str) -> float:
    """Seconds; the file gives tenths of microseconds, one digit more than `datetime` reads."""
    whole, _, fraction = text.partition(".")
    moment = datetime.fromisoformat(whole)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp() + (float(f"0.{fraction}") if fraction else 0.0)


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")


@contextmanager
def _lines(file: Path) -> Iterator[TextIO]:
    with file.open("rb") as raw:
        packed = raw.read(len(ZSTD_MAGIC)) == ZSTD_MAGIC
        raw.seek(0)
        stream: Any = _zstd_reader(raw, file) if packed else raw
        with io.TextIOWrapper(io.BufferedReader(stream) if packed else stream, "utf-8") as text:
            yield text


def _zstd_reader(raw: Any, file: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise ConfigError(
            "a zstd-compressed trace needs the package `zstandard`: pip install zstandard, or "
            "unpack the file with `zstd -d`",
            file=str(file),
        ) from None
    return zstandard.ZstdDecompressor().stream_reader(raw)
