"""How many attempts may follow failed ones, over all requests.

A retry is more work for a fleet that just showed that it cannot do the work it has. Without a bound
an overloaded or broken fleet gets, beside its requests, each of them several times over.
"""

from __future__ import annotations

from typing import NamedTuple


class RetryRule(NamedTuple):
    """In a window of `window_s` so many retries as `share` of the requests accepted in it, or on
    average in as long a time before it, and `floor` besides, so that a few may always fail."""

    share: float
    floor: int
    window_s: float


class RetryBudget:
    """A window begins with the first retry after the last one was over: who never fails never asks."""

    def __init__(self) -> None:
        self.spent = 0
        """Retries in this window."""
        self._began: float | None = None
        self._accepted = 0
        """Requests accepted before this window."""
        self._before = 0.0
        """Requests accepted in a time as long as this window before it, on average."""

    def take(self, now: float, accepted: int, rule: RetryRule) -> bool:
        """Whether there may be another one; it is counted. `accepted` counts all requests so far."""
        self._turn(now, accepted, rule.window_s)
        if self.spent >= self.allowed(accepted, rule):
            return False
        self.spent += 1
        return True

    def allowed(self, accepted: int, rule: RetryRule) -> int:
        """Retries that this window may hold."""
        return rule.floor + int(rule.share * max(self._before, float(accepted - self._accepted)))

    def _turn(self, now: float, accepted: int, window_s: float) -> None:
        """Begin a new window where the last one is over."""
        if self._began is not None:
            elapsed = now - self._began
            if elapsed < window_s:
                return
            self._before = (accepted - self._accepted) * window_s / elapsed
        self._began, self._accepted, self.spent = now, accepted, 0
