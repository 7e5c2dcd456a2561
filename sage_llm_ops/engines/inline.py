"""A simulated engine as a worker in this very process.

`submit` runs on the caller's thread up to what is due at once, so an instant engine has answered
before `submit` returns; what comes later is brought by the shared pump's thread (`pump.py`).

Order without a held lock: whatever is to be reported is put into `_outbox` under the worker's lock,
and at most one thread at a time carries the outbox to the uplink, *without* the lock. So the
uplink may call back into any worker (a completion that places the next request does), and per
worker the order of reports is the order in which they happened: `on_up`, its events, `on_down`,
the next `on_up`. Locks nest one way only, the worker's around the pump's. The price: a submit that
meets another thread carrying returns before its own events are reported; that thread does it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, final

from sage_llm_ops.engines.base import Sign, Uplink
from sage_llm_ops.engines.pump import Pump, shared_pump
from sage_llm_ops.engines.sim.core import SimCore
from sage_llm_ops.engines.sim.engine import VERSION
from sage_llm_ops.engines.sim.options import SimOptions
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import PROTOCOL, EngineEvent, Hello, Stats

STATS_EVERY_S = 1.0

logger = logging.getLogger(__name__)

_Events = tuple[int, list[EngineEvent]]
_Report = _Events | Callable[[], None]


@final
class InlineWorker:
    """The `Worker` protocol over a `SimCore`.

    `start` answers `on_up` before it returns, or after `start_delay_s` on the pump's thread. Every
    start makes a new engine with an empty cache.
    """

    def __init__(
        self,
        instance: ExecutionInstance,
        core_options: SimOptions | Mapping[str, Any],
        uplink: Uplink,
        clock: Callable[[], float] = time.monotonic,
        *,
        pump: Pump | None = None,
        start_delay_s: float = 0.0,
    ) -> None:
        self.id = WorkerId(instance.instance_id)
        self.instance = instance
        self.incarnation = 0
        given = core_options
        self._options = given if isinstance(given, SimOptions) else SimOptions.parse(given)
        self._uplink = uplink
        self._pump = pump if pump is not None else shared_pump(clock)
        # A pump that wakes by another clock than the engine's would wake for nothing, or never.
        self._clock = self._pump.clock
        self._delay = start_delay_s
        self._lock = threading.Lock()
        self._quiet = threading.Condition(self._lock)
        self._core: SimCore | None = None
        """None: down, or not up yet."""
        self._up_at: float | None = None
        """When a delayed start is over; None: no start on its way."""
        self._outbox: deque[_Report] = deque()
        self._carrier: int | None = None
        """The thread that carries the outbox just now."""
        self._wake: float | None = None
        self._stats_due = 0.0

    def start(self) -> None:
        """Come up; nothing happens where it is up or coming up."""
        with self._lock:
            if self._core is not None or self._up_at is not None:
                return
            self.incarnation += 1
            now = self._clock()
            self._pump.attach(self)
            if self._delay > 0.0:
                self._up_at = now + self._delay
                self._pump.at(self._up_at, self)
            else:
                self._come_up(now)
        self._carry()

    def submit(self, node: PlanNode) -> bool:
        """Hand a node over; what is due at once is reported before this returns (see above)."""
        with self._lock:
            core = self._core
            if core is None:
                return False
            try:
                now = self._clock()
                core.submit(node, now)
                self._collect(core, now)
            except Exception:
                self._go_down(f"the engine broke:\n{traceback.format_exc()}")
        self._carry()
        return True

    def cancel(self, node: NodeId) -> None:
        """Ask to stop a node."""
        with self._lock:
            core = self._core
            if core is None:
                return
            try:
                now = self._clock()
                core.cancel(node, now)
                self._collect(core, now)
            except Exception:
                self._go_down(f"the engine broke:\n{traceback.format_exc()}")
        self._carry()

    def kill(self, reason: str = "killed on request") -> None:
        """Crash: what was not reported yet is lost, then `on_down`."""
        with self._lock:
            if self._core is None and self._up_at is None:
                return
            self._go_down(reason)
        self._carry()

    def probe(self) -> Sign | None:
        """It lives and falls silent with the process that asks."""
        return None

    def stop(self, timeout_s: float) -> None:
        """Gone without `on_down`. Waits for a report that is on its way on another thread."""
        with self._lock:
            self._core = self._up_at = self._wake = None
            self._outbox.clear()
            self._pump.detach(self)
            if self._carrier != threading.get_ident():
                self._quiet.wait_for(lambda: self._carrier is None, timeout_s)

    def describe(self) -> dict[str, Any]:
        """For people."""
        with self._lock:
            state = "up" if self._core is not None else "starting" if self._up_at else "down"
            return {
                "id": self.id,
                "placement": "inline",
                "engine": "sim",
                "pid": os.getpid(),
                "log": None,
                "state": state,
                "incarnation": self.incarnation,
            }

    def on_wake(self, when: float) -> None:
        """The pump's call. Outdated wakes are dropped: answering each with a new one would let
        them multiply.
        """
        with self._lock:
            now = self._clock()
            if self._up_at is not None:
                if when == self._up_at:
                    self._come_up(now)
            elif self._core is not None and when == self._wake:
                self._wake = None
                try:
                    self._collect(self._core, now)
                except Exception:
                    self._go_down(f"the engine broke:\n{traceback.format_exc()}")
        self._carry()

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where its parts disagree."""
        with self._lock:
            if self._core is not None:
                self._core.check_integrity()
                if self._core.next_wake() is not None and self._wake is None:
                    raise IntegrityError(f"inline worker {self.id!r}: nobody will wake it")

    def _come_up(self, now: float) -> None:
        core = SimCore(self._options)
        core.reset(now)
        self._core, self._up_at, self._wake = core, None, None
        self._stats_due = now + STATS_EVERY_S
        hello = Hello(
            protocol=PROTOCOL,
            engine="sim",
            engine_version=VERSION,
            model=self.instance.model_name,
            tokenizer_hash=self._options.tokenizer_hash,
            pid=os.getpid(),
            capabilities=core.capabilities,
        )
        incarnation = self.incarnation
        self._outbox.append(lambda: self._uplink.on_up(self.id, incarnation, hello))

    def _go_down(self, reason: str) -> None:
        incarnation = self.incarnation
        self._core = self._up_at = self._wake = None
        self._pump.detach(self)
        # Events of the dead incarnation go; an `on_up` that is still in there must stay.
        self._outbox = deque(report for report in self._outbox if not isinstance(report, tuple))
        self._outbox.append(lambda: self._uplink.on_down(self.id, incarnation, reason))

    def _collect(self, core: SimCore, now: float) -> None:
        """Put what is due into the outbox and ask to be woken for what is not."""
        stamped = core.advance(now)
        if stamped:
            events = [event for _, event in stamped]
            outbox = self._outbox
            if outbox and isinstance(outbox[-1], tuple):
                outbox[-1][1].extend(events)
            else:
                outbox.append((self.incarnation, events))
            if now >= self._stats_due:
                self._stats_due = now + STATS_EVERY_S
                stats: Stats = core.stats
                outbox.append(lambda: self._uplink.on_stats(self.id, stats))
        wake = core.next_wake()
        if wake is not None and (self._wake is None or wake < self._wake):
            self._wake = wake
            self._pump.at(wake, self)

    def _carry(self) -> None:
        """Bring the outbox to the uplink, unless another call is at it already."""
        with self._lock:
            if self._carrier is not None or not self._outbox:
                return
            self._carrier = threading.get_ident()
        while True:
            with self._lock:
                if not self._outbox:
                    self._carrier = None
                    self._quiet.notify_all()
                    return
                report = self._outbox.popleft()
            try:
                if isinstance(report, tuple):
                    self._uplink.on_events(self.id, report[0], report[1])
                else:
                    report()
            except Exception:
                # An uplink must not raise. If it does, neither the caller of `submit` nor the
                # pump, which serves other workers too, is the one to pay.
                logger.exception("inline worker %r: the uplink raised on a report", self.id)
