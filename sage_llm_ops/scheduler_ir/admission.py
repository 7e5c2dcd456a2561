"""The door: who is let in. Pure; written by Admit alone.

Checked in the order of what it costs the caller to learn: the tenant's own limits first, then those
of all. A refusal names the value and the limit and says when to come back.
"""

from __future__ import annotations

from collections import Counter
from math import ceil, inf, log2
from typing import NamedTuple
from zlib import crc32

import msgspec

from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import RequestId
from sage_llm_ops.types.requests import Request

SHED_AT = (1.0, 1.0, 0.9, 0.7, 0.5)
"""Share of the queue's bound from which a priority is turned away, CRITICAL first: what room is left
near saturation is for those who need it most."""
_TENANTS = 4096


class AdmissionOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """0 or None: no such limit, `max_pending` excepted.

    `max_pending`: how many may wait for a place at a time; at 0 nobody is let in.
    `default_timeout_s`: of requests that name none. `tenant_pending`: accepted and not ended,
    per tenant. `tenant_rate`: requests a second per tenant, `tenant_burst` at once.
    `shed`: turn away low priorities before the queue is full. `feasible`: refuse what cannot meet
    its objective or time-out any more. `throttle`: K of adaptive throttling (about 2), which refuses
    at the door in proportion to what was refused lately.
    """

    max_pending: int = 20_000
    default_timeout_s: float | None = None
    tenant_pending: int = 0
    tenant_rate: float = 0.0
    tenant_burst: int = 10
    shed: bool = True
    feasible: bool = False
    throttle: float = 0.0
    throttle_window_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("max_pending", "tenant_pending", "tenant_rate", "throttle"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be 0 or more, and finite")
        if self.default_timeout_s is not None and not self.default_timeout_s >= 0.0:
            raise ValueError(
                f"default_timeout_s={self.default_timeout_s!r} must be 0 (none) or more"
            )
        if self.tenant_burst < 1:
            raise ValueError(f"tenant_burst={self.tenant_burst} must be at least 1")
        if self.throttle and not self.throttle >= 1.0:
            raise ValueError(f"throttle={self.throttle!r} must be 0 (off) or at least 1")
        if not 0.0 < self.throttle_window_s < inf:
            raise ValueError(
                f"throttle_window_s={self.throttle_window_s!r} must be above 0, and finite"
            )


class Refusal(NamedTuple):
    """Code of `types/errors.py`, sentence, and when it may be worth another try."""

    code: str
    message: str
    retry_after_s: float | None = None


class Ahead(NamedTuple):
    """What a request would find: who waits, and how long until it ends if let in."""

    waiting: int
    drained_per_s: float
    """Requests that lately got a place, a second; 0 where nobody knows."""
    room: bool = False
    """Whether a worker has a place for it now: it would not wait, whoever else does."""


class Drained:
    """How many requests get a place a second while others wait for one."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._count, self._rate = 0, 0.0

    def pause(self) -> None:
        """Nobody waits: what gets a place from now on says how many came, not how many could."""
        self._at = None

    def per_s(self, now: float, count: int) -> float:
        """`count`: placements so far. Looked at anew about once a second."""
        if self._at is None or now < self._at:
            self._at, self._count = now, count
        passed = now - self._at
        if passed >= 1.0:
            latest = (count - self._count) / passed
            self._rate = latest if not self._rate else 0.5 * (self._rate + latest)
            self._at, self._count = now, count
        return self._rate


class Bucket:
    """One tenant's tokens."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens, self.at = tokens, at

    def fill(self, now: float, options: AdmissionOptions) -> float:
        """What is in it by now."""
        filled = self.tokens + max(0.0, now - self.at) * options.tenant_rate
        self.tokens, self.at = min(float(options.tenant_burst), filled), now
        return self.tokens


class Throttle:
    """p = max(0, (asked - K * taken) / (asked + 1)) over a sliding window (SRE book, ch. 21)."""

    def __init__(self) -> None:
        self._asked = self._taken = 0.0
        self._at = 0.0

    def share(self, now: float, k: float, window_s: float) -> float:
        """Share to refuse; what was counted fades by half every window."""
        fade = 0.5 ** (max(0.0, now - self._at) / window_s)
        self._asked, self._taken, self._at = self._asked * fade, self._taken * fade, now
        return max(0.0, (self._asked - k * self._taken) / (self._asked + 1.0))

    def count(self, taken: bool) -> None:
        """One more was asked for."""
        self._asked += 1.0
        self._taken += taken

    def falls_to(self, share: float, k: float, window_s: float) -> float:
        """Seconds until no more than `share` are refused, if nobody asks meanwhile."""
        over = self._asked - k * self._taken - share * self._asked
        return window_s * max(0.0, log2(over / share)) if over > 0.0 else 0.0


class Admission:
    """Counts tenants and remembers what was refused."""

    def __init__(self) -> None:
        self.pending: dict[str, int] = {}
        """Accepted and not ended, by tenant; kept only where there is a quota."""
        self._inside: dict[RequestId, str] = {}
        self._stay_s = 0.0
        """How long one that counts against a quota is inside, on average; 0 before the first ended."""
        self._buckets: dict[str, Bucket] = {}
        self._look_at = _TENANTS
        """Buckets from which on it is worth looking for full ones."""
        self._throttle = Throttle()

    def check(
        self,
        request: Request,
        now: float,
        ahead: Ahead,
        service_s: float,
        options: AdmissionOptions,
    ) -> Refusal | None:
        """None: come in. Counts it against its tenant's rate only then."""
        found = self._tenant(request, options) or self._queue(request, ahead, options)
        if found is None and options.feasible:
            found = self._deadline(request, ahead, service_s, options)
        if options.throttle:
            found = self._throttled(request, now, found, options)
        if found is None and options.tenant_rate:
            found = self._rate(request, now, options)
        return found

    def entered(self, request: Request) -> None:
        """It was let in."""
        self._inside[request.id] = request.tenant
        self.pending[request.tenant] = self.pending.get(request.tenant, 0) + 1

    def ended(self, request: Request, now: float) -> None:
        """One that was let in has ended; nothing where it was not counted."""
        tenant = self._inside.pop(request.id, None)
        if tenant is None:
            return
        stay = max(0.0, now - request.arrived)
        self._stay_s += (0.1 if self._stay_s else 1.0) * (stay - self._stay_s)
        left = self.pending[tenant] - 1
        if left:
            self.pending[tenant] = left
        else:
            del self.pending[tenant]

    def check_integrity(self) -> None:
        """The tenants' counts are those of the requests inside."""
        if Counter(self._inside.values()) != self.pending:
            raise IntegrityError("admission: the tenants' pending requests are counted wrongly")

    def _tenant(self, request: Request, options: AdmissionOptions) -> Refusal | None:
        quota = options.tenant_pending
        has = self.pending.get(request.tenant, 0) if quota else 0
        if quota and has >= quota:
            return Refusal(
                "quota_exceeded",
                f"tenant {request.tenant!r} has {has} requests pending and "
                f"admit.tenant_pending={quota}; wait for some to end or raise it",
                self._stay_s or 1.0,
            )
        return None

    def _throttled(
        self, request: Request, now: float, found: Refusal | None, options: AdmissionOptions
    ) -> Refusal | None:
        """`found` counts; who would be let in may still be turned away."""
        k, window = options.throttle, options.throttle_window_s
        drawn = (crc32(request.id.encode()) + 1) / 2**32
        share = self._throttle.share(now, k, window)
        self._throttle.count(found is None)
        if found is not None or drawn >= share:
            return found
        return Refusal(
            "overloaded",
            f"{share:.0%} of the requests are turned away at the door, because so many were "
            f"refused lately (throttle={k:g}); send fewer or add instances",
            min(10.0 * window, max(0.1, self._throttle.falls_to(drawn, k, window))),
        )

    def _rate(self, request: Request, now: float, options: AdmissionOptions) -> Refusal | None:
        """A token bucket; the full ones are forgotten, so that names that come once cost nothing."""
        bucket = self._buckets.get(request.tenant)
        if bucket is None:
            if len(self._buckets) >= self._look_at:
                self._forget(now, options)
            bucket = self._buckets[request.tenant] = Bucket(options.tenant_burst, now)
        if bucket.fill(now, options) >= 1.0:
            bucket.tokens -= 1.0
            return None
        wait = (1.0 - bucket.tokens) / options.tenant_rate
        return Refusal(
            "quota_exceeded",
            f"tenant {request.tenant!r} sends more than admit.tenant_rate={options.tenant_rate:g} "
            f"requests/s with a burst of {options.tenant_burst}; wait {wait:.2f} s",
            wait,
        )

    def _forget(self, now: float, options: AdmissionOptions) -> None:
        """The next look is at twice as many: however many names come, one costs little."""
        full = options.tenant_burst
        for tenant in [t for t, b in self._buckets.items() if b.fill(now, options) >= full]:
            del self._buckets[tenant]
        self._look_at = max(_TENANTS, 2 * len(self._buckets))

    def _queue(self, request: Request, ahead: Ahead, options: AdmissionOptions) -> Refusal | None:
        limit = options.max_pending
        share = SHED_AT[min(max(request.priority, 0), len(SHED_AT) - 1)] if options.shed else 1.0
        if ahead.waiting < ceil(limit * share):
            return None
        after = ahead.waiting / ahead.drained_per_s if ahead.drained_per_s else 1.0
        shed = (
            f"; priority {request.priority} is turned away from {share:.0%} of it on"
            if ahead.waiting < limit
            else ""
        )
        return Refusal(
            "overloaded",
            f"{ahead.waiting} requests are waiting and max_pending={limit}{shed}; "
            "send it later, add instances or raise admit.max_pending",
            min(60.0, max(0.1, after)),
        )

    def _deadline(
        self, request: Request, ahead: Ahead, service_s: float, options: AdmissionOptions
    ) -> Refusal | None:
        """Only where both the queue's pace and the service time are known: a guess refuses nobody."""
        timeout = options.default_timeout_s if request.timeout_s is None else request.timeout_s
        limits = [t for t in (timeout, (request.slo_ms or 0.0) / 1e3) if t]
        if not limits:
            return None
        limit = min(limits)
        known = ahead.drained_per_s > 0.0 and not ahead.room
        wait = ahead.waiting / ahead.drained_per_s if known else 0.0
        if wait + service_s <= limit:
            return None
        return Refusal(
            "deadline_infeasible",
            f"it would end after about {wait + service_s:.1f} s ({wait:.1f} of them waiting) and must "
            f"within {limit:g}; allow more time, send it later or add instances",
            wait if service_s <= limit else None,
        )
