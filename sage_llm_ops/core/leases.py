"""Instances that stay only as long as somebody says that they are still there.

Whoever registers an instance from outside (a server that announces itself) may vanish without a
word. Its registration is therefore a lease: renewed by a heartbeat, ended by silence.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from sage_llm_ops.types.errors import ConfigError, UnknownName


class Leases:
    """Who must be heard from, and until when. No thread of its own: `expired` is asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._leases: dict[str, tuple[float, float]] = {}
        """Length, and end."""

    def grant(self, instance_id: str, lease_s: float) -> None:
        """From now on it must be renewed at least every `lease_s`."""
        checked(lease_s)
        with self._lock:
            self._leases[instance_id] = (lease_s, self._clock() + lease_s)

    def renew(self, instance_id: str) -> float:
        """Heard from; how long that is good for. Raises `UnknownName` where there is no lease (any
        more): it has to be registered again."""
        with self._lock:
            if instance_id not in self._leases:
                raise UnknownName("lease of instance", instance_id, self._leases)
            lease_s, _ = self._leases[instance_id]
            self._leases[instance_id] = (lease_s, self._clock() + lease_s)
            return lease_s

    def forget(self, instance_id: str) -> None:
        """It left otherwise."""
        with self._lock:
            self._leases.pop(instance_id, None)

    def expired(self) -> list[tuple[str, float]]:
        """Ids whose lease has ended, with its length; each is told once."""
        with self._lock:
            now = self._clock()
            over = [(each, length) for each, (length, end) in self._leases.items() if end <= now]
            for instance_id, _ in over:
                del self._leases[instance_id]
            return over


def checked(lease_s: float) -> float:
    """Itself; refused where it is no length of time."""
    if isinstance(lease_s, bool) or not isinstance(lease_s, (int, float)) or not lease_s > 0:
        raise ConfigError(f"lease_s={lease_s!r} must be a number of seconds above 0", key="lease_s")
    return lease_s
