"""Keeps workers alive: starts them, starts them again when they die, gives up by name."""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage_llm_ops.engines.base import Worker
from sage_llm_ops.types.ids import WorkerId

log = logging.getLogger("sage_llm_ops.supervisor")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Exponential back-off with jitter, from `first_s` to `most_s`; `attempts` failures in a row end
    it. Only who stayed up for `stable_s` begins the count anew: a worker that dies of its first
    requests, again and again, has failed like one that does not come up."""

    first_s: float = 0.2
    most_s: float = 30.0
    attempts: int = 5
    stable_s: float = 10.0


class Watched:
    """One worker under supervision."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.up = False
        self.up_since = 0.0
        self.failures = 0
        """Ends since it last stayed up for long enough."""
        self.reason = ""
        """Of the latest end."""
        self.next_start: float | None = None
        """When (monotonic) it is started again; None where that is not due."""
        self.given_up = False

    def describe(self) -> dict[str, Any]:
        """For people."""
        due = self.next_start
        return {
            "failures": self.failures,
            "next_start_s": None if due is None else max(0.0, due - time.monotonic()),
            "last_end": self.reason.partition("\n")[0],
        }


class Supervisor:
    """One thread for all restarts. `changed` is notified whenever a worker comes up or ends."""

    def __init__(
        self,
        policy: RestartPolicy,
        give_up: Callable[[WorkerId, str], None],
        *,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` tells how long a worker stayed up."""
        self.changed = threading.Condition()
        self.workers: dict[WorkerId, Watched] = {}
        self._policy = policy
        self._give_up = give_up
        self._random = random.Random(seed)
        self._clock = clock
        self._due: list[tuple[float, int, Watched]] = []
        self._pushes = 0
        self._stopping = False
        self._thread: threading.Thread | None = None

    def add(self, worker: Worker) -> None:
        """Take a worker into care and begin its start."""
        with self.changed:
            self.workers[worker.id] = Watched(worker)
        worker.start()

    def remove(self, worker: WorkerId) -> None:
        """It is not started again; the caller stops it."""
        with self.changed:
            self.workers.pop(worker, None)
            self.changed.notify_all()

    def notice(self, change: str, worker: WorkerId, reason: str) -> None:
        """Told by the uplink, on a worker's thread."""
        with self.changed:
            watched = self.workers.get(worker)
            if watched is None or self._stopping:
                return
            was_up, watched.up = watched.up, change == "up"
            if watched.up:
                watched.up_since = self._clock()
            else:
                if was_up and self._clock() - watched.up_since >= self._policy.stable_s:
                    watched.failures = 0
                self._ended(watched, reason)
            self.changed.notify_all()

    def wait_ready(self, timeout_s: float) -> list[Watched]:
        """Until every worker is up, was given up, or failed its first start; those not up."""
        with self.changed:
            self.changed.wait_for(
                lambda: all(w.up or w.failures or w.given_up for w in self.workers.values()),
                timeout_s,
            )
            return [watched for watched in self.workers.values() if not watched.up]

    def wait_up(self, timeout_s: float) -> list[Watched]:
        """Until every worker is up, restarts included; those that are not at the time-out."""
        with self.changed:
            self.changed.wait_for(lambda: all(w.up for w in self.workers.values()), timeout_s)
            return [watched for watched in self.workers.values() if not watched.up]

    def wait_settled(self, worker: WorkerId, timeout_s: float) -> str:
        """Until this worker is up: an empty string; or why it is not: its start failed, it was taken
        out, or the time is over."""
        with self.changed:
            watched = self.workers.get(worker)
            if watched is None:
                return "it was taken out"
            self.changed.wait_for(
                lambda: watched.up or watched.failures or not self._cares_for(watched), timeout_s
            )
            if watched.up:
                return ""
            if not self._cares_for(watched) and not watched.given_up:
                return "it was taken out while it started"
            return watched.reason or f"it did not come up within {timeout_s:g} s"

    def stop(self, timeout_s: float) -> None:
        """Stop the thread, then all workers at the same time."""
        with self.changed:
            self._stopping = True
            workers = [watched.worker for watched in self.workers.values()]
            self.workers.clear()
            self.changed.notify_all()
        if self._thread is not None:
            self._thread.join()  # first: it may be starting one of them just now
        stops = [threading.Thread(target=w.stop, args=(timeout_s,), daemon=True) for w in workers]
        for thread in stops:
            thread.start()
        for thread in stops:
            thread.join()

    def _ended(self, watched: Watched, reason: str) -> None:
        watched.failures += 1
        watched.reason = reason
        if watched.failures > self._policy.attempts:
            watched.given_up = True
            log.error(
                "worker %s is given up after %d ends in a row, none %g s after it came up: %s",
                watched.worker.id,
                watched.failures,
                self._policy.stable_s,
                reason,
            )
            threading.Thread(
                target=self._give_up, args=(watched.worker.id, reason), daemon=True
            ).start()
            return
        delay = min(self._policy.most_s, self._policy.first_s * 2 ** (watched.failures - 1))
        delay *= self._random.uniform(0.5, 1.0)
        # The rest of the reason is the tail of its log: for the error that ends it all, not for here.
        cause = reason.partition("\n")[0]
        log.warning("worker %s starts again in %.1f s: %s", watched.worker.id, delay, cause)
        self._pushes += 1
        watched.next_start = time.monotonic() + delay
        heapq.heappush(self._due, (watched.next_start, self._pushes, watched))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="sage-llm-ops-supervisor", daemon=True
            )
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self.changed:
                if self._stopping:
                    return
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self.changed.wait(self._due[0][0] - now if self._due else None)
                    continue
                watched = heapq.heappop(self._due)[2]
                watched.next_start = None
                if not self._cares_for(watched):
                    continue
            try:
                watched.worker.start()
            except Exception as error:
                log.exception("worker %s cannot be started", watched.worker.id)
                self.notice("down", watched.worker.id, str(error))
            with self.changed:
                unwanted = not self._cares_for(watched) and not self._stopping
            if unwanted:  # it was removed, and stopped, while it was being started
                watched.worker.stop(10.0)

    def _cares_for(self, watched: Watched) -> bool:
        """Its id may have been given to another worker since."""
        return self.workers.get(watched.worker.id) is watched
