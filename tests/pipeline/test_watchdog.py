"""The watchdog: a dead thread or a stuck dispatch, seen from outside."""

from __future__ import annotations

import logging
import threading

import pytest

from sage_llm_ops.pipeline.live_source import LiveSource
from sage_llm_ops.pipeline.watchdog import Watchdog
from sage_llm_ops.testing import ManualClock


class Told:
    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.event = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.event.set()


def watch(source: LiveSource, told: Told, **limits: float) -> Watchdog:
    dog = Watchdog(source, told, **{"dump_after_s": 0.04, "fail_after_s": 10.0, **limits})
    dog.start()
    return dog


def test_a_dead_thread_is_told_once() -> None:
    source, told = LiveSource(ManualClock()), Told()
    source.thread = threading.Thread(target=lambda: None)
    source.thread.start()
    source.thread.join()
    dog = watch(source, told)
    assert told.event.wait(5.0)
    dog.stop()
    assert told.reasons == ["the thread of the SAGE source died; its traceback is in the log"]


def test_a_thread_that_said_goodbye_is_not_dead() -> None:
    source, told = LiveSource(ManualClock()), Told()
    source.thread = threading.Thread(target=lambda: None)
    source.thread.start()
    source.thread.join()
    source.ended.set()
    dog = watch(source, told)
    assert not told.event.wait(0.1)
    dog.stop()


def test_a_stuck_dispatch_is_dumped_once_and_told_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock(100.0)
    source, told = LiveSource(clock), Told()
    source.thread = threading.current_thread()
    source.busy_since = 100.0
    with caplog.at_level(logging.ERROR, "sage_llm_ops.watchdog"):
        dog = watch(source, told)
        clock.advance(5.0)
        assert not told.event.wait(0.15)
        clock.advance(6.0)
        assert told.event.wait(5.0)
        dog.stop()
    dumps = [record.getMessage() for record in caplog.records]
    assert len(dumps) == 1
    assert "a dispatch has lasted 5.0 s" in dumps[0]
    assert "test_a_stuck_dispatch" in dumps[0]
    assert told.reasons == ["one dispatch has lasted 11 s (limit 10 s)"]


def test_idleness_is_no_hang() -> None:
    clock = ManualClock()
    source, told = LiveSource(clock), Told()
    dog = watch(source, told, fail_after_s=0.1)
    clock.advance(100.0)
    assert not told.event.wait(0.1)
    dog.stop()
    dog.stop()
