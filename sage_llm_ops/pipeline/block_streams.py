"""Recorded accesses to blocks: Mooncake traces, and lists of one id a line (the LIRS traces).

A reader of files like `traces.py`, which it asks first. Plain, gzip or zstd; the format is found by
looking into the file.
"""

from __future__ import annotations

import array
import gzip
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sage_llm_ops.pipeline.traces import TraceRequest, read_trace
from sage_llm_ops.types.errors import ConfigError

GZIP_MAGIC = b"\x1f\x8b"
LAP = "*"
"""A line of the LIRS traces that is no access."""


@dataclass(frozen=True)
class BlockStream:
    """Requests, each the blocks of its prompt in order; a list of ids is requests of one block."""

    name: str
    at: tuple[float, ...]
    """Seconds since the first, or the number of the access where the file has no times."""
    requests: tuple[tuple[int, ...], ...]
    chained: bool
    """Blocks of a request continue each other."""

    @cached_property
    def keys(self) -> list[int]:
        """Every access in its order."""
        return [key for blocks in self.requests for key in blocks]

    @cached_property
    def unique(self) -> int:
        return len(set(self.keys))

    def digest(self) -> str:
        """SHA-256 of the accesses as little-endian 64-bit numbers: which stream this is."""
        numbers = array.array("Q", self.keys)
        if sys.byteorder == "big":
            numbers.byteswap()
        return hashlib.sha256(numbers).hexdigest()


def stream_of(name: str, requests: Iterator[TraceRequest]) -> BlockStream:
    """The blocks of requests; those without any are left out."""
    kept = [request for request in requests if request.blocks]
    return BlockStream(
        name, tuple(r.at for r in kept), tuple(tuple(r.blocks) for r in kept), chained=True
    )


def read_blocks(path: str | Path, limit: int | None = None) -> BlockStream:
    """At most `limit` requests of a file. Raises `ConfigError` with file and line."""
    file = Path(path)
    name = file.name.split(".")[0]
    if file.is_file():
        with file.open("rb") as raw:
            magic = raw.read(2)
        if magic == GZIP_MAGIC or magic[:1].isdigit() or magic[:1] == LAP.encode():
            ids = _read_ids(file, limit, packed=magic == GZIP_MAGIC)
            at = tuple(map(float, range(len(ids))))
            return BlockStream(name, at, tuple((key,) for key in ids), chained=False)
    stream = stream_of(name, read_trace(file, limit))
    if not stream.requests:
        raise ConfigError(
            "no request of this trace names its blocks; give a Mooncake trace (hash_ids) or a "
            "list of block ids, one a line",
            file=str(file),
        )
    return stream


def _read_ids(file: Path, limit: int | None, *, packed: bool) -> list[int]:
    ids: list[int] = []
    with gzip.open(file, "rt") if packed else file.open() as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if not text or text == LAP:
                continue
            if limit is not None and len(ids) >= limit:
                break
            if not text.isdecimal():
                raise ConfigError(f"{text[:80]!r} is no block id", file=str(file), line=number)
            ids.append(int(text))
    return ids
