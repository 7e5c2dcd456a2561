"""Workers that misbehave on a seeded schedule.

    uplink = FaultyUplink(real_uplink, FaultPlan(seed=7, fail=0.1))
    worker = FaultyWorker(InlineWorker(instance, options, uplink), FaultPlan(seed=7, kill=0.01))

`FaultyUplink` stands between a worker and the plane and spoils reports; `FaultyWorker` stands
between the plane and a worker and kills it. Both draw from their own generator, once per decision,
so one thread's traffic always meets the same faults.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from sage_llm_ops.engines.base import Sign, Uplink, Worker
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import CacheChanged, Done, EngineEvent, Failed, Hello, Stats, Tokens


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Probabilities from 0 to 1. Those of one line exclude each other."""

    seed: int = 0
    kill: float = 0.0
    """Per submit: the worker dies right after taking the node."""
    refuse: float = 0.0
    """Per submit: the worker says it is down."""
    fail: float = 0.0
    """Per end: `Failed` instead of `Done`."""
    lose: float = 0.0
    """Per end: never reported. Only a timeout finds it."""
    repeat: float = 0.0
    """Per end: reported twice."""
    lie: float = 0.0
    """Per batch of tokens: a wrong offset."""
    delay: float = 0.0
    """Per report: held back until the next report of the same worker."""

    def __post_init__(self) -> None:
        for name in ("kill", "refuse", "fail", "lose", "repeat", "lie", "delay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"fault {name}={getattr(self, name)!r} must be between 0 and 1")


@final
class FaultyUplink:
    """An `Uplink` that spoils what passes; counts what it did in `injected`."""

    def __init__(self, inner: Uplink, plan: FaultPlan) -> None:
        self._inner = inner
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._lock = threading.Lock()
        self._held: dict[WorkerId, list[EngineEvent]] = {}
        self.injected: dict[str, int] = {}

    def on_events(self, worker: WorkerId, incarnation: int, events: Sequence[EngineEvent]) -> None:
        """Pass on, spoiled."""
        with self._lock:
            spoiled = self._held.pop(worker, [])
            for event in events:
                spoiled += self._spoil(event)
            if spoiled and self._draw("delay", self._plan.delay):
                self._held[worker] = spoiled
                return
        if spoiled:
            self._inner.on_events(worker, incarnation, spoiled)

    def _spoil(self, event: EngineEvent) -> list[EngineEvent]:
        plan = self._plan
        if isinstance(event, Tokens) and self._draw("lie", plan.lie):
            return [Tokens(event.node, event.offset + 1, event.ids, event.cached)]
        if isinstance(event, Done):
            if self._draw("fail", plan.fail):
                return [Failed(event.node, "engine_failed", "injected by a fault plan")]
            if self._draw("lose", plan.lose):
                return []
            if self._draw("repeat", plan.repeat):
                return [event, event]
        return [event]

    def _draw(self, name: str, chance: float) -> bool:
        if not chance or self._random.random() >= chance:
            return False
        self.injected[name] = self.injected.get(name, 0) + 1
        return True

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        """Pass on."""
        self._inner.on_stats(worker, stats)

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        """Pass on."""
        self._inner.on_cache(worker, incarnation, said)

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        """Pass on."""
        self._inner.on_up(worker, incarnation, hello)

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        """Pass on; what was held back died with it."""
        with self._lock:
            self._held.pop(worker, None)
        self._inner.on_down(worker, incarnation, reason)


@final
class FaultyWorker:
    """A `Worker` that dies or refuses on submit; otherwise the one it wraps."""

    def __init__(self, inner: Worker, plan: FaultPlan) -> None:
        self.id = inner.id
        self.instance = inner.instance
        self._inner = inner
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._lock = threading.Lock()
        self.kills = 0

    @property
    def incarnation(self) -> int:
        """Of the worker inside."""
        return self._inner.incarnation

    @incarnation.setter
    def incarnation(self, value: int) -> None:
        self._inner.incarnation = value

    def start(self) -> None:
        """Pass on."""
        self._inner.start()

    def submit(self, node: PlanNode) -> bool:
        """Pass on, or refuse, or pass on and die."""
        with self._lock:
            drawn = self._random.random()
        if drawn < self._plan.refuse:
            return False
        taken = self._inner.submit(node)
        if taken and drawn >= 1.0 - self._plan.kill:
            self.kills += 1
            self._inner.kill()
        return taken

    def cancel(self, node: NodeId) -> None:
        """Pass on."""
        self._inner.cancel(node)

    def stop(self, timeout_s: float) -> None:
        """Pass on."""
        self._inner.stop(timeout_s)

    def kill(self, reason: str = "killed on request") -> None:
        """Pass on."""
        self._inner.kill(reason)

    def probe(self) -> Sign | None:
        """Of the worker inside."""
        return self._inner.probe()

    def describe(self) -> dict[str, Any]:
        """Of the worker inside."""
        return self._inner.describe()
