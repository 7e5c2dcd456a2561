"""Asks workers whether they live, and ends those that have stopped answering.

A worker that dies says so: its process ends. One that is stopped (SIGSTOP, a debugger, a frozen
cgroup) or waits for a lock that nobody gives back says nothing, and its requests would hang until
their deadlines. It is killed; from there on it is an ordinary death: fail-over, then a restart.

A worker answers between two engine steps, and a step may take long: a prompt of many thousand tokens
on a CPU, a graph that is compiled. So two limits: `silent_s` for a worker that neither answers nor
uses its processor, `stuck_s` for one that works and does not answer. Loading is neither: a worker
that is not up yet owes no answer, and its start has a time-out of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sage_llm_ops.engines.base import Sign, Worker
from sage_llm_ops.types.errors import ConfigError

log = logging.getLogger("sage_llm_ops.health")


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """Every `interval_s` each worker is asked; the other two limits are told above."""

    interval_s: float = 5.0
    silent_s: float = 30.0
    stuck_s: float = 900.0

    def __post_init__(self) -> None:
        if not 0.0 < self.interval_s <= self.silent_s <= self.stuck_s:
            raise ConfigError(
                f"interval_s={self.interval_s:g}, silent_s={self.silent_s:g} and stuck_s="
                f"{self.stuck_s:g} must be above 0 and none larger than the next"
            )


class Health:
    """Counts what each worker owes. `check` is called every `interval_s` by whoever owns it."""

    def __init__(
        self,
        policy: HealthPolicy,
        workers: Callable[[], Iterable[Worker]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._workers = workers
        self._clock = clock
        self._checked = clock()
        self._owed: dict[tuple[str, int], tuple[float, float]] = {}
        """By worker and incarnation: seconds without a sign, and without an answer."""

    def check(self) -> list[str]:
        """Ask everybody; ids of those that were killed for their silence."""
        now = self._clock()
        # Where we were stopped ourselves, nobody else is to blame for what was not heard.
        passed = min(now - self._checked, 2 * self.policy.interval_s)
        self._checked = now
        owed, self._owed = self._owed, {}
        killed = []
        for worker in self._workers():
            sign = worker.probe()
            if sign is None or sign is Sign.ANSWERED:
                continue
            key = (worker.id, worker.incarnation)
            silent, unanswered = owed.get(key, (0.0, 0.0))
            silent = silent + passed if sign is Sign.SILENT else 0.0
            unanswered += passed
            reason = self._verdict(silent, unanswered)
            if reason:
                log.error("worker %s is killed: %s", worker.id, reason)
                worker.kill(reason)
                killed.append(str(worker.id))
            else:
                self._owed[key] = (silent, unanswered)
        return killed

    def _verdict(self, silent: float, unanswered: float) -> str:
        policy = self.policy
        if silent >= policy.silent_s:
            return (
                f"it gave no answer and used no processor for {silent:.1f} s "
                f"(silent_s={policy.silent_s:g})"
            )
        if unanswered >= policy.stuck_s:
            return f"it gave no answer for {unanswered:.1f} s (stuck_s={policy.stuck_s:g})"
        return ""
