"""The listener over real sockets: gaps, dead publishers, frames that are none."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from sage_llm_ops.engines.kv_events import KvListener
from sage_llm_ops.types.events import KvBatch
from sage_llm_ops.types.ids import WorkerId

W = WorkerId("w")


class Publisher:
    """vLLM's publisher: PUB and ROUTER, batches numbered from 0. Answers questions on a thread."""

    def __init__(self, directory: Path) -> None:
        self.live, self.replay = f"ipc://{directory}/kv", f"ipc://{directory}/re"
        self._context: zmq.Context[Any] = zmq.Context()
        self._pub = self._context.socket(zmq.XPUB)  # to know when somebody listens
        self._pub.bind(self.live)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(self.replay)
        self.sent: list[bytes] = []
        self.keep = 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def wait_for_listener(self) -> None:
        assert self._pub.poll(5000)
        self._pub.recv()

    def batch(self, name: int, *, lose: bool = False) -> None:
        event = {"type": "BlockRemoved", "block_hashes": [name], "medium": "GPU"}
        self.raw(msgspec.msgpack.encode([0.0, [event], 0]), lose=lose)

    def raw(self, payload: bytes, *, lose: bool = False) -> None:
        number = len(self.sent)
        self.sent.append(payload)
        if not lose:
            self._pub.send_multipart([b"kv", number.to_bytes(8, "big"), payload])

    def frame(self, *parts: bytes) -> None:
        self._pub.send_multipart(list(parts))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _answer(self) -> None:
        while not self._stop.is_set():
            if not self._router.poll(20):
                continue
            who, _, first = self._router.recv_multipart()
            start = max(int.from_bytes(first, "big"), len(self.sent) - self.keep)
            for number in range(start, len(self.sent)):
                word = number.to_bytes(8, "big")
                self._router.send_multipart([who, b"", b"kv", word, self.sent[number]])
            self._router.send_multipart([who, b"", b"", b"\xff" * 8, b""])


class Heard:
    def __init__(self) -> None:
        self._queue: queue.Queue[KvBatch] = queue.Queue()
        self.listener = KvListener(self._queue.put)
        self._rest: list[tuple[int, list[int], bool]] = []

    def next(self) -> tuple[int, list[int], bool]:
        """Number, name of the removed block, and whether everything before is to be forgotten. What
        came in one event is taken apart: each batch of these tests is one change."""
        if not self._rest:
            batch = self._queue.get(timeout=10.0)
            names = [
                int.from_bytes(change.hashes, "little")  # type: ignore[union-attr]
                for change in batch.changes
            ]
            if batch.reset:
                return batch.number, names, True
            assert len(names) == batch.count
            self._rest = [(batch.number + at, [name], False) for at, name in enumerate(names)]
        return self._rest.pop(0)

    def nothing(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def heard() -> Iterator[Heard]:
    made = Heard()
    yield made
    made.listener.close()


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    made = Publisher(tmp_path)
    yield made
    made.close()


def follow(heard: Heard, publisher: Publisher) -> None:
    heard.listener.follow(W, 1, publisher.live, publisher.replay)
    publisher.wait_for_listener()


def test_from_the_first_batch_on(heard: Heard, publisher: Publisher) -> None:
    publisher.batch(1)  # before anybody listens
    publisher.batch(2)
    follow(heard, publisher)
    assert heard.next() == (0, [1], False)
    assert heard.next() == (1, [2], False)
    publisher.batch(3)
    assert heard.next() == (2, [3], False)


def test_a_gap_is_healed(heard: Heard, publisher: Publisher) -> None:
    follow(heard, publisher)
    publisher.batch(1)
    assert heard.next() == (0, [1], False)
    publisher.batch(2, lose=True)
    publisher.batch(3, lose=True)
    publisher.batch(4)
    assert [heard.next()[1] for _ in range(3)] == [[2], [3], [4]]


def test_what_nobody_keeps_is_told_as_lost(heard: Heard, publisher: Publisher) -> None:
    follow(heard, publisher)
    publisher.batch(1)
    assert heard.next() == (0, [1], False)
    publisher.keep = 1
    publisher.batch(2, lose=True)
    publisher.batch(3, lose=True)
    publisher.batch(4)
    found = [heard.next() for _ in range(2)]
    assert found[0][1:] == ([], True)
    while found[-1][1] != [4]:
        found.append(heard.next())
    assert all(reset for _, _, reset in found[:-1])


def test_frames_that_are_none(heard: Heard, publisher: Publisher) -> None:
    follow(heard, publisher)
    publisher.batch(1)
    assert heard.next() == (0, [1], False)
    publisher.frame(b"kv")
    publisher.frame(b"kv", b"short", b"x")
    publisher.raw(b"\xc1 no msgpack")
    assert heard.next() == (2, [], True), "what it said is lost"
    publisher.batch(3)
    assert heard.next() == (2, [3], False)
    assert heard.listener.corrupt == 3


def test_who_left_is_not_heard(heard: Heard, publisher: Publisher) -> None:
    follow(heard, publisher)
    publisher.batch(1)
    heard.next()
    heard.listener.leave(W)
    publisher.wait_for_listener()  # XPUB tells of the end as well
    publisher.batch(2)
    heard.listener.close()
    assert heard.nothing()


def test_a_publisher_that_comes_back_under_its_address(heard: Heard, tmp_path: Path) -> None:
    first = Publisher(tmp_path)
    try:
        follow(heard, first)
        for name in (1, 2):
            first.batch(name)
            heard.next()
    finally:
        first.close()
    second = Publisher(tmp_path)
    try:
        for name in (10, 11, 12, 13):
            second.batch(name)
        second.wait_for_listener()
        found = [heard.next()]
        while found[-1][1] != [13]:
            found.append(heard.next())
        assert any(reset for _, _, reset in found)
        assert [names for _, names, _ in found if names] == [[10], [11], [12], [13]]
    finally:
        second.close()


def test_an_address_that_is_none_is_told_and_the_others_are_heard(
    heard: Heard, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    heard.listener.follow(WorkerId("wrong"), 1, "nonsense", "")
    follow(heard, publisher)
    publisher.batch(1)
    assert heard.next() == (0, [1], False)
    assert "'nonsense'" in caplog.text


def test_close_is_idempotent(heard: Heard) -> None:
    heard.listener.close()
    heard.listener.close()
    heard.listener.follow(W, 1, "ipc:///nowhere", "")
