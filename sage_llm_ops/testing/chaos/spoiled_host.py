"""A worker process that spoils its frames when a file tells it to.

Whoever wants a fault writes its name into the file named by the environment; the file is gone once
the fault has happened, so that faults can be counted. `slow SECONDS`: a pause before each frame for
the next three seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sage_llm_ops.engines import host, wire
from sage_llm_ops.types.wire import Done, Tokens, Up

VARIABLE = "SAGE_LLM_OPS_CHAOS_FILE"
FRAMES = ("truncate", "garbage", "lie about offsets", "lie about counts", "repeat ends")
SLOW_FOR_S = 3.0


class Spoiler:
    """In place of `wire.encode_up`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._pause_s = 0.0
        self._slow_until = 0.0

    def __call__(self, messages: Sequence[Up]) -> bytes:
        if time.monotonic() < self._slow_until:
            time.sleep(self._pause_s)
        fault = self._file.read_text() if self._file.exists() else ""
        if fault.startswith("slow "):
            self._pause_s = float(fault.split()[1])
            self._slow_until = time.monotonic() + SLOW_FOR_S
            self._file.unlink()
        elif fault:
            spoiled = spoil(fault, messages)
            if spoiled is not None:
                self._file.unlink()
                return spoiled
        return wire.encode_up(messages)


def spoil(fault: str, messages: Sequence[Up]) -> bytes | None:
    """The frame with this fault; None where the messages give no opportunity for it."""
    frame = wire.encode_up(messages)
    if fault == "truncate":
        return frame[: len(frame) // 2]
    if fault == "garbage":
        return b"\xc1 this was never msgpack"
    out: list[Up] = []
    for message in messages:
        out.append(message)
        if fault == "lie about offsets" and isinstance(message, Tokens):
            out[-1] = msgspec.structs.replace(message, offset=message.offset + 1)
        elif fault == "lie about counts" and isinstance(message, Done):
            out[-1] = msgspec.structs.replace(message, n_tokens=message.n_tokens + 1)
        elif fault == "repeat ends" and isinstance(message, Done):
            out.append(message)
    return None if out == list(messages) else wire.encode_up(out)


if __name__ == "__main__":
    code = host.main(Spoiler(Path(os.environ[VARIABLE])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
