"""Two services of one process must not write the same ledger: each would overwrite the other's."""

from __future__ import annotations

import threading
from pathlib import Path

from sage_llm_ops.types.errors import ConfigError

_owners: dict[Path, object] = {}
_lock = threading.Lock()


def claim(owner: object, ledger: str | None) -> None:
    """Take the file, or `ConfigError` if another service here writes it."""
    if ledger is None:
        return
    path = Path(ledger).resolve()
    with _lock:
        if _owners.setdefault(path, owner) is not owner:
            raise ConfigError(
                f"{ledger!r} is written by another service of this process; give each its own",
                key="ledger",
            )


def release(owner: object) -> None:
    """Give back what it holds."""
    with _lock:
        for path in [path for path, holder in _owners.items() if holder is owner]:
            del _owners[path]
