"""What a live run leaves for replay: a header, every event the source let in, a footer.

One JSON object a line. The header holds the pipeline itself, so that a recording needs no other
file; the footer holds the digest of all decisions. Without a footer the run was cut off, and a
replay can still be made but has nothing to be compared with.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.events import Event, Recorded

FORMAT = 3

log = logging.getLogger("sage_llm_ops.pipeline")


class Header(msgspec.Struct, tag=True, frozen=True):
    """First line."""

    format: int
    pipeline: str
    """The pipeline file's text."""


class Footer(msgspec.Struct, tag=True, frozen=True):
    """Last line."""

    digest: str
    decisions: int


class Recorder:
    """Writes on the source's thread."""

    def __init__(self, path: str | Path, pipeline: str) -> None:
        self._file = Path(path).open("wb", buffering=1 << 16)  # noqa: SIM115 (closed by close)
        self._encode = msgspec.json.Encoder().encode
        self._whole = True
        self._put(Header(FORMAT, pipeline))

    def __call__(self, event: Event) -> None:
        """Write one event, as the source stamped it. What cannot be written (a full disk, a
        request that is none) ends the recording, not the pipeline."""
        if self._whole:
            try:
                self._put(event)
            except Exception:
                log.exception("the recording ends before event %d", event.seq)
                self._whole = False

    def close(self, digest: str, decisions: int) -> None:
        """Write the footer, if nothing is missing before it."""
        try:
            if self._whole:
                self._put(Footer(digest, decisions))
            self._file.close()
        except OSError:
            log.exception("the recording is cut off")

    def _put(self, item: Any) -> None:
        line = self._encode(item)
        self._file.write(line + b"\n")


class Recording:
    """Reads one. Lines are decoded as they are asked for."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.footer: Footer | None = None
        """Known once `events` has reached the end."""
        self._decode: Any = msgspec.json.Decoder(Header | Footer | Recorded).decode
        first = next(self._lines(), None)
        if first is None or not isinstance(first[1], Header):
            raise ConfigError("it does not begin with a recording's header", file=str(path), line=1)
        if first[1].format != FORMAT:
            raise ConfigError(
                f"recording format {first[1].format}, this version reads {FORMAT}",
                file=str(path),
                line=1,
            )
        self.header: Header = first[1]

    def events(self) -> Iterator[Event]:
        """Every recorded event, in order."""
        for number, item in self._lines():
            if isinstance(item, Footer):
                self.footer = item
            elif isinstance(item, Event):
                yield item
            elif number > 1:
                raise ConfigError("a second header", file=str(self.path), line=number)

    def _lines(self) -> Iterator[tuple[int, Any]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return  # the run was cut off in the middle of it
                try:
                    yield number, self._decode(line)
                except msgspec.DecodeError as error:
                    raise ConfigError(
                        f"not a line of a recording: {error}", file=str(self.path), line=number
                    ) from None
