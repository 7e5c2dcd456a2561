"""Every decision, with what it was made of.

The graph writes here and nobody else. Each entry goes into a running digest (the identity of all
decisions taken so far: equal digests mean equal decisions), into a bounded memory, and, where a
path is given, into a file of JSON lines of bounded size: when it is full it becomes `NAME.1`
and a new one begins. Candidates are written as fleet rows; a `fleet` line says who they are.

A run goes on in the file of the run before it, below a `run` line: whoever asks why something
happened asks after the restart, too. Sequence numbers and times are a run's own.
"""

from __future__ import annotations

import hashlib
import logging
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import numpy.typing as npt

log = logging.getLogger("sage_llm_ops.telemetry")

_PACK = struct.Struct("<Bqdqi").pack
_FLUSH_BYTES = 1 << 16


class Entry(msgspec.Struct, gc=False, omit_defaults=True):
    """One line of the ledger."""

    kind: str
    """`run`, `fleet`, `breaker`, `policy`, `place`, `retry` or `end`."""
    seq: int
    now: float
    request: str = ""
    attempt: int = 0
    worker: str = ""
    policy: str = ""
    reason: str = ""
    fleet: int = 0
    rows: list[int] = []
    costs: list[float] = []
    hits: dict[str, int] | None = None
    waiting: int = 0
    waited_s: float = 0.0
    code: str = ""
    tokens: int = 0
    workers: list[str] = []
    unit: str = ""
    trace: str = ""
    """W3C `traceparent` of the request; no part of the digest."""
    wall: float = 0.0
    """Of a `run` line: when it began, in seconds since 1970."""


class Ledger:
    """Bounded record of decisions. One writer: the graph's thread."""

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        keep: int = 1024,
        max_bytes: int = 64 << 20,
    ) -> None:
        self.decisions = 0
        self._trusted, self._ordered, self._placed, self._retried, self._ended = (
            hashlib.blake2b(digest_size=16) for _ in range(5)
        )
        """One for each operator that writes here. In what order the branches of one dispatch get
        their turn is SAGE's affair (it changes when operators are chained) and no decision."""
        self._recent: deque[tuple[Entry, Entry]] = deque(maxlen=keep)
        """Each with the fleet line of its time."""
        self._path = Path(path) if path is not None else None
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._written = 0
        self._encode = msgspec.json.Encoder().encode
        self._fleet = Entry("fleet", 0, 0.0)
        self._rows: npt.NDArray[np.intp] | None = None
        self._row_list: list[int] = []
        """`_rows` as a list: as long as every worker has room, all placements share one array."""
        self._file: Any = None
        self._began = time.time()

    @property
    def digest(self) -> str:
        """Identity of all decisions so far."""
        whole = hashlib.blake2b(digest_size=16)
        for part in (self._trusted, self._ordered, self._placed, self._retried, self._ended):
            whole.update(part.digest())
        return whole.hexdigest()

    def fleet(self, seq: int, now: float, version: int, workers: Sequence[str]) -> None:
        """Who the rows of the following entries are."""
        self._fleet = Entry("fleet", seq, now, fleet=version, workers=list(workers))
        self._write(self._fleet)

    def place(
        self,
        seq: int,
        now: float,
        request: str,
        attempt: int,
        row: int,
        rows: npt.NDArray[np.intp],
        costs: npt.NDArray[np.float64],
        **why: Any,
    ) -> None:
        """A request got a place. `why`: the fields of `Entry` that explain it."""
        self._placed.update(_PACK(1, seq, now, attempt, row))
        self._placed.update(request.encode())
        self._placed.update(rows.tobytes())
        self._placed.update(costs.tobytes())
        self.decisions += 1
        worker = self._fleet.workers[row]
        if rows is not self._rows:
            self._rows, self._row_list = rows, rows.tolist()
        self._write(
            Entry(
                "place",
                seq,
                now,
                request,
                attempt,
                worker,
                rows=self._row_list,
                costs=costs.tolist(),
                fleet=self._fleet.fleet,
                **why,
            )
        )

    def policy(self, seq: int, now: float, name: str, change: str) -> None:
        """A policy changed how it decides, and says why."""
        self._ordered.update(_PACK(5, seq, now, 0, 0))
        self._ordered.update(f"{name}|{change}".encode())
        self.decisions += 1
        self._write(Entry("policy", seq, now, policy=name, reason=change))

    def retry(self, seq: int, now: float, request: str, attempt: int, code: str, why: str) -> None:
        """An attempt failed and another one follows."""
        self._retried.update(_PACK(2, seq, now, attempt, 0))
        self._retried.update(f"{request}|{code}".encode())
        self.decisions += 1
        self._write(Entry("retry", seq, now, request, attempt, code=code, reason=why))

    def end(
        self,
        seq: int,
        now: float,
        request: str,
        attempt: int,
        code: str,
        why: str,
        tokens: int,
        trace: str = "",
    ) -> None:
        """The one end of a request; a refusal is an end without an attempt."""
        self._ended.update(_PACK(3, seq, now, attempt, tokens))
        self._ended.update(f"{request}|{code}".encode())
        self.decisions += 1
        self._write(
            Entry(
                "end", seq, now, request, attempt, code=code, reason=why, tokens=tokens, trace=trace
            )
        )

    def breaker(self, seq: int, now: float, worker: str, change: str, why: str) -> None:
        """A worker is trusted less, or more, than before: `opened`, `half_open`, `closed`."""
        self._trusted.update(_PACK(4, seq, now, 0, 0))
        self._trusted.update(f"{worker}|{change}".encode())
        self.decisions += 1
        self._write(Entry("breaker", seq, now, worker=worker, code=change, reason=why))

    def entries(self) -> list[Entry]:
        """What memory still holds, oldest first. From any thread: the copy is made in one go."""
        return [entry for _, entry in self._recent.copy()]

    def about(self, request: str) -> list[Entry]:
        """What memory still holds about one request, oldest first, below the fleet line of its time;
        another such line stands before rows that have come to mean others."""
        told: list[Entry] = []
        meant: list[str] = []
        for fleet, entry in self._recent.copy():
            if entry.request != request:
                continue
            if not told or (entry.rows and fleet.workers != meant):
                told.append(fleet)
                meant = fleet.workers
            told.append(entry)
        return told

    def flush(self) -> None:
        """Bring what is buffered to the file. A file that cannot be written (a full disk) is given
        up: serving goes on, memory and digest stay whole."""
        if self._path is None or not self._buffer:
            return
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file, self._written = _open_whole(self._path)
                self._file.write(self._encode(Entry("run", 0, 0.0, wall=self._began)) + b"\n")
            self._file.write(self._buffer)
            self._file.flush()
            self._written += len(self._buffer)
            self._buffer.clear()
            if self._written >= self._max_bytes:
                self._rotate()
        except OSError:
            log.exception("the ledger file %s is given up", self._path)
            self._path = None
            self._buffer.clear()

    def close(self) -> None:
        """Flush and close the file; memory stays readable."""
        self.flush()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, entry: Entry) -> None:
        self._recent.append((self._fleet, entry))
        if self._path is not None:
            self._buffer += self._encode(entry)
            self._buffer += b"\n"
            if len(self._buffer) >= _FLUSH_BYTES:
                self.flush()

    @property
    def _older(self) -> Path:
        assert self._path is not None
        return self._path.with_name(self._path.name + ".1")

    def _rotate(self) -> None:
        assert self._path is not None
        self._file.close()
        self._path.replace(self._older)
        self._file = self._path.open("wb")
        self._written = 0
        self._buffer += self._encode(self._fleet)
        self._buffer += b"\n"


def _open_whole(path: Path) -> tuple[IO[bytes], int]:
    """For appending, and its size. A last line that a killed run did not end is cut off: what is
    written next would become a part of it."""
    file = path.open("a+b")
    size = end = file.tell()
    while end:
        start = max(0, end - _FLUSH_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end < size:
        file.truncate(end)
    return file, end
