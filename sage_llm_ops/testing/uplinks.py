"""An uplink that remembers what it was told and lets a test wait for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.wire import CacheChanged, Done, EngineEvent, Failed, Hello, Stats, Tokens


class RecordingUplink:
    """`log` holds `(what, worker, incarnation, payload)` in order, one entry an event."""

    def __init__(self) -> None:
        self.log: list[tuple[str, WorkerId, int, Any]] = []
        self.stats: list[Stats] = []
        self._changed = threading.Condition()

    def on_events(self, worker: WorkerId, incarnation: int, events: Sequence[EngineEvent]) -> None:
        self._add(*(("event", worker, incarnation, event) for event in events))

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        with self._changed:
            self.stats.append(stats)
            self._changed.notify_all()

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        self._add(("cache", worker, incarnation, said))

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        self._add(("up", worker, incarnation, hello))

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        self._add(("down", worker, incarnation, reason))

    def _add(self, *entries: tuple[str, WorkerId, int, Any]) -> None:
        with self._changed:
            self.log.extend(entries)
            self._changed.notify_all()

    def wait(self, condition: Callable[[RecordingUplink], Any], timeout_s: float = 20.0) -> Any:
        """What `condition` returns once it is true; TimeoutError with the log otherwise."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (found := condition(self)):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"not within {timeout_s} s; log: {self.log[-20:]}")
                self._changed.wait(left)
        return found

    def wait_up(self, worker: str, incarnation: int = 1, timeout_s: float = 20.0) -> Hello:
        """The Hello of that incarnation."""
        return self._wait_entry("up", worker, incarnation, timeout_s)  # type: ignore[no-any-return]

    def wait_down(self, worker: str, incarnation: int = 1, timeout_s: float = 20.0) -> str:
        """The reason of that incarnation's end."""
        return self._wait_entry("down", worker, incarnation, timeout_s)  # type: ignore[no-any-return]

    def wait_end(self, node: int, timeout_s: float = 20.0) -> Done | Failed:
        """The terminal event of a node."""
        found: list[Done | Failed] = self.wait(lambda up: up.ends(NodeId(node)), timeout_s)
        return found[0]

    def events(self, node: int) -> list[EngineEvent]:
        """Everything about one node, in order."""
        return [entry[3] for entry in self.log if entry[0] == "event" and entry[3].node == node]

    def ends(self, node: int) -> list[Done | Failed]:
        """The terminal events of a node: never more than one."""
        return [event for event in self.events(node) if isinstance(event, Done | Failed)]

    def ids(self, node: int) -> list[int]:
        """The node's tokens; asserts that their offsets leave no gap."""
        out: list[int] = []
        start: int | None = None
        for event in self.events(node):
            if isinstance(event, Tokens):
                start = event.offset if start is None else start
                assert event.offset == start + len(out), event
                out.extend(event.ids)
        return out

    def _wait_entry(self, what: str, worker: str, incarnation: int, timeout_s: float) -> Any:
        def find(up: RecordingUplink) -> Any:
            return [entry for entry in up.log if entry[:3] == (what, worker, incarnation)]

        return self.wait(find, timeout_s)[0][3]
