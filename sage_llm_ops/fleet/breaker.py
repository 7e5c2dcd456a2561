"""Whether a worker is trusted with requests: its latest answers, and what follows from them.

    closed ── too many failures among its latest answers ──► open ── after a while ──► half open
       ▲                                                      ▲                            │
       └───────────────── its probe was answered ─────────────┼────────────────────────────┤
                                                              └────── its probe failed ────┘

Open it gets nothing, half open one request at a time, the probe. What it was given before it opened
goes on and says nothing new. Here is the verdict alone; what room it leaves is `view.py`'s.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from sage_llm_ops.types.ids import WorkerId

CLOSED, OPEN, HALF_OPEN = range(3)
BREAKERS = ("closed", "open", "half_open")

JITTER = 0.25
"""Workers that broke together are not probed together: a wait is up to a quarter longer."""


class BreakerRule(NamedTuple):
    """It opens at `failures` among the latest `window` answers, for `open_s` the first time, twice
    as long after every failed probe, `most_s` at most."""

    failures: int
    window: int
    open_s: float
    most_s: float


class Breaker:
    """One worker's. Needed from its first failure until its latest answers are good again."""

    __slots__ = ("_answers", "opened", "state", "worker")

    def __init__(self, worker: WorkerId) -> None:
        self.worker = worker
        self.state = CLOSED
        self.opened = 0
        """Times it opened without closing in between."""
        self._answers = 0
        """The latest answers as bits, the last one lowest; 1 is a failure."""

    @property
    def failures(self) -> int:
        """Among the latest answers."""
        return self._answers.bit_count()

    @property
    def idle(self) -> bool:
        """Whether a fresh one would say the same."""
        return self.state == CLOSED and not self._answers

    def answered(self, ok: bool, rule: BreakerRule, *, probe: bool) -> bool:
        """Take one answer; whether it opened or closed. `probe`: given to it half open."""
        if self.state == CLOSED:
            self._answers = (self._answers << 1 | (not ok)) & ((1 << rule.window) - 1)
            if ok or self.failures < rule.failures:
                return False
            self._open()
        elif self.state == OPEN or not probe:
            return False
        elif ok:
            self.state, self.opened, self._answers = CLOSED, 0, 0
        else:
            self._open()
        return True

    def wait_s(self, rule: BreakerRule) -> float:
        """How long it stays open. The jitter is a hash: the same in a replay."""
        wait = min(rule.most_s, rule.open_s * 2.0 ** min(self.opened - 1, 60))
        return wait * (1.0 + JITTER * crc32(f"{self.worker}|{self.opened}".encode()) / 2**32)

    def waited(self) -> None:
        """It was open long enough: a probe may come."""
        self.state = HALF_OPEN

    def _open(self) -> None:
        self.state = OPEN
        self.opened += 1
