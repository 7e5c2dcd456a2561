"""One thread that hears all engines which publish their prefix caches on a socket: those in a process
of their own, and servers on other machines. A worker whose engine runs in its own process tells with
its frames instead (`wire.CacheChanged`, docs/adr/0021).

It decodes, puts in order, and posts plain events.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from sage_llm_ops.engines.kv_events.frames import changes, parts
from sage_llm_ops.engines.kv_events.sequence import Next, Sequence
from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.events import KvBatch
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.kv import KvChange

log = logging.getLogger("sage_llm_ops.engines")

ANSWER_S = 2.0
"""A publisher answers between two batches, or within a tenth of a second; one that has died never."""
GATHER_S = 0.01
"""Rest after every turn: engines publish once a step, and each turn takes time from the plane. What a
worker was just given is expected to be there, so nobody waits for the report."""
FRAME = 3
"""Parts: topic, number, payload; in an answer there may be an empty one before them."""
END = (-1).to_bytes(8, "big", signed=True)


class Followed:
    """One worker's publisher."""

    def __init__(
        self, context: zmq.Context[Any], worker: WorkerId, incarnation: int, live: str, replay: str
    ) -> None:
        self.worker, self.incarnation = worker, incarnation
        self.sequence = Sequence()
        self.corrupt = 0
        self.live = context.socket(zmq.SUB)
        self.live.set_hwm(0)  # what would be dropped here would have to be asked for again
        self.live.linger = 0
        self.live.subscribe(b"")
        self.monitor = self.live.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self.live.connect(live)
        self.replay = context.socket(zmq.DEALER) if replay else None
        if self.replay is not None:
            self.replay.linger = 0
            self.replay.connect(replay)
        self.asked: int | None = None
        self.until = 0.0

    def ask(self, now: float) -> list[Next]:
        """Ask for what is missing, if anything is and nothing is asked for yet; give up what is not
        answered in time."""
        out: list[Next] = []
        if self.asked is not None:
            if now < self.until:
                return out
            self.asked = None
            out += self.sequence.answered()
        while self.sequence.asking is not None and self.replay is None:
            out += self.sequence.answered()
        if self.sequence.asking is not None and self.replay is not None:
            self.asked, self.until = self.sequence.asking, now + ANSWER_S
            self.replay.send_multipart([b"", self.asked.to_bytes(8, "big")])
        return out

    def close(self) -> None:
        self.live.disable_monitor()
        self.monitor.close(0)
        self.live.close(0)
        if self.replay is not None:
            self.replay.close(0)


def batches(
    worker: WorkerId, incarnation: int, found: list[Next], corrupted: Callable[[str], None]
) -> list[KvBatch]:
    """Batches in order as events of the graph, as few as there may be: each costs a dispatch, whatever
    is in it. Of one that is no batch nothing is known, so all that was told before is forgotten."""
    out: list[KvBatch] = []
    said: list[KvChange] = []
    first = count = 0

    def flush() -> None:
        nonlocal count
        pieces = parts(said) if count else []
        for at, piece in enumerate(pieces):
            more = at + 1 < len(pieces)
            out.append(
                KvBatch(
                    worker=worker,
                    incarnation=incarnation,
                    number=first,
                    count=count,
                    changes=piece,
                    more=more,
                )
            )
        said.clear()
        count = 0

    for number, payload in found:
        try:
            what = None if payload is None else changes(payload)
        except ProtocolError as error:
            corrupted(str(error))
            what, number = None, number + 1
        if what is not None:
            first = first if count else number
            said += what
            count += 1
            continue
        flush()
        forget = KvBatch(
            worker=worker, incarnation=incarnation, number=number, changes=[], reset=True, more=True
        )
        out.append(forget)
    flush()
    return out


class KvListener:
    """`follow` and `leave` may be called from any thread; `post` is called from the listener's."""

    def __init__(self, post: Callable[[KvBatch], None]) -> None:
        self._post = post
        self._context: zmq.Context[Any] = zmq.Context(1)
        self._followed: dict[WorkerId, Followed] = {}
        """The thread's own."""
        self._orders: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._wake, self._waker = (self._context.socket(kind) for kind in (zmq.PULL, zmq.PUSH))
        self._lock = threading.Lock()
        self._wake.bind("inproc://wake")
        self._waker.connect("inproc://wake")
        self._closed = False
        self.corrupt = 0
        """Frames that were none. Each is a hole in its worker's sequence, and healed like one."""
        self._thread = threading.Thread(target=self._run, name="sage-llm-ops-kv", daemon=True)
        self._thread.start()

    def follow(self, worker: WorkerId, incarnation: int, live: str, replay: str) -> None:
        """Hear what this start of the worker publishes, from its first batch on."""
        self._order("follow", (worker, incarnation, live, replay))

    def leave(self, worker: WorkerId) -> None:
        """Nothing of it is of interest any more."""
        self._order("leave", worker)

    def close(self) -> None:
        """End the thread; idempotent."""
        if self._order("close", None):
            self._thread.join(5.0)

    def _order(self, what: str, about: Any) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._closed = what == "close"
            self._orders.put((what, about))
            self._waker.send(b"")
            return True

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._obey():
                try:
                    self._turn()
                except Exception:
                    log.exception("hearing KV events failed; it goes on")
        finally:
            for one in self._followed.values():
                one.close()
            with self._lock:  # whoever ordered the end may still be about to wake this thread
                self._context.destroy(linger=0)

    def _obey(self) -> bool:
        while not self._orders.empty():
            what, about = self._orders.get()
            if what == "close":
                return False
            worker = about[0] if what == "follow" else about
            before = self._followed.pop(worker, None)
            if before is not None:
                before.close()
            if what == "follow":
                self._begin(*about)
        return True

    def _begin(self, worker: WorkerId, incarnation: int, live: str, replay: str) -> None:
        try:
            one = Followed(self._context, worker, incarnation, live, replay)
        except zmq.ZMQError as error:
            log.warning("the KV events of %s at %r are not heard: %s", worker, live, error)
            return
        self._followed[worker] = one

    def _turn(self) -> None:
        now = time.monotonic()
        wanted: list[Any] = [self._wake]
        for one in self._followed.values():
            self._tell(one, one.ask(now))
            wanted += [one.live, one.monitor]
            if one.replay is not None:
                wanted.append(one.replay)
        due = [one.until for one in self._followed.values() if one.asked is not None]
        patience = None if not due else max(1, int((min(due) - now) * 1e3) + 1)
        poller = zmq.Poller()
        for socket in wanted:
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(patience))
        if self._wake in ready:
            self._wake.recv()
        for one in self._followed.values():
            if one.monitor in ready:
                self._reconnected(one)
            # Answers first: a live batch behind a gap then finds the gap healed.
            if one.replay is not None and one.replay in ready:
                self._answers(one)
            if one.live in ready:
                self._live(one)
        if len(ready) > (self._wake in ready):
            time.sleep(GATHER_S)

    def _live(self, one: Followed) -> None:
        found: list[Next] = []
        for _ in range(256):  # then the others' turn
            try:
                frame = one.live.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if len(frame) < FRAME or len(frame[-2]) != 8:
                self._corrupted(one, f"{len(frame)} parts")
                continue
            number = int.from_bytes(frame[-2], "big")
            found += one.sequence.live(number, frame[-1])
        self._tell(one, found)

    def _answers(self, one: Followed) -> None:
        assert one.replay is not None
        while True:
            try:
                frame = one.replay.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(frame) < FRAME or len(frame[-2]) != 8:
                self._corrupted(one, f"an answer of {len(frame)} parts")
                continue
            if frame[-2] == END:
                one.asked = None
                self._tell(one, one.sequence.answered())
                continue
            number = int.from_bytes(frame[-2], "big")
            self._tell(one, one.sequence.replayed(number, frame[-1]))

    def _tell(self, one: Followed, found: list[Next]) -> None:
        for batch in batches(
            one.worker, one.incarnation, found, lambda what: self._corrupted(one, what)
        ):
            self._post(batch)

    def _reconnected(self, one: Followed) -> None:
        while one.monitor.poll(0):
            one.monitor.recv_multipart()
        one.sequence.reconnected()

    def _corrupted(self, one: Followed, what: str) -> None:
        one.corrupt += 1
        self.corrupt += 1
        if one.corrupt == 1:
            log.warning("a KV event frame of %s is left out: %s", one.worker, what)
