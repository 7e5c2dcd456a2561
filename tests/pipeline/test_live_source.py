"""The way in: order, fairness, sleep, stop."""

from __future__ import annotations

import threading
import time

from sage.runtime import StopSignal

from sage_llm_ops.pipeline.live_source import FAIR_AFTER, LiveSource
from sage_llm_ops.testing import ManualClock
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.events import Arrive, Cancel, Drain, NodeDone, Timer
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId


def done(n: int) -> NodeDone:
    return NodeDone(node=NodeId(n), finish_reason="stop", n_tokens=1)


def test_completions_then_due_timers_then_arrivals() -> None:
    clock = ManualClock(5.0)
    source = LiveSource(clock)
    source.post(Arrive(request=make_request("a")))
    source.at(5.0, "deadline", "x")
    source.at(5.1, "deadline", "later")
    source.post(done(1))
    kinds = [type(source()) for _ in range(3)]
    assert kinds == [NodeDone, Timer, Arrive]


def test_whoever_waits_for_a_dispatch_waits_until_the_next_poll() -> None:
    source = LiveSource(ManualClock())
    over: list[bool] = []
    drain = Drain(worker=WorkerId("w"))
    waiter = threading.Thread(target=lambda: over.append(source.post_and_wait(drain, 10.0)))
    waiter.start()
    while source() is not drain:
        pass
    assert not over
    source.post(done(1))
    source()
    waiter.join(10.0)
    assert over == [True]
    assert source.post_and_wait(Drain(worker=WorkerId("w")), 0.0) is False


def test_arrivals_do_not_starve() -> None:
    source = LiveSource(ManualClock())
    for n in range(3 * FAIR_AFTER):
        source.post(done(n))
    for n in range(3):
        source.post(Arrive(request=make_request(f"r{n}")))
    taken = [type(source()) for _ in range(3 * FAIR_AFTER + 3)]
    places = [n for n, kind in enumerate(taken) if kind is Arrive]
    assert places == [FAIR_AFTER, 2 * FAIR_AFTER + 1, 3 * FAIR_AFTER + 2]


def test_a_class_keeps_its_order_and_stamps_rise() -> None:
    clock = ManualClock()
    source = LiveSource(clock)
    recorded = []
    source.record = recorded.append
    for n in range(10):
        source.post(Arrive(request=make_request(f"r{n}")))
    taken = []
    for _ in range(10):
        clock.advance(0.1)
        taken.append(source())
    assert [event.request.id for event in taken] == [f"r{n}" for n in range(10)]
    assert [event.seq for event in taken] == list(range(1, 11))
    assert [event.request.arrived for event in taken] == [event.now for event in taken]
    assert recorded == taken


def test_what_is_put_behind_the_arrivals_stays_there() -> None:
    source = LiveSource(ManualClock())
    source.post(Arrive(request=make_request("a")))
    source.post(Cancel(request=RequestId("a")), behind_arrivals=True)
    source.post(Drain(worker=WorkerId("w")))
    assert [type(source()) for _ in range(3)] == [Drain, Arrive, Cancel]


def test_nothing_to_do_is_none_after_the_idle_hook() -> None:
    source = LiveSource(time.monotonic)
    looked = []
    source.idle_hook = lambda: looked.append(1)
    assert source() is None
    assert looked == [1]
    assert source.busy_since is None


def test_a_post_wakes_it_up() -> None:
    source = LiveSource(time.monotonic)
    asleep = threading.Event()
    source.idle_hook = asleep.set
    taken = []
    thread = threading.Thread(target=lambda: taken.append((source(), time.monotonic())))
    thread.start()
    asleep.wait(5.0)
    began = time.monotonic()
    source.post(done(1))
    thread.join(5.0)
    ((event, at),) = taken
    assert isinstance(event, NodeDone)
    assert at - began < 0.15


def test_a_timer_ends_the_sleep() -> None:
    source = LiveSource(time.monotonic)
    source.at(time.monotonic() + 0.02, "deadline", "a")
    event = source()
    assert isinstance(event, Timer)


def test_stop_lets_what_is_posted_out_first() -> None:
    source = LiveSource(ManualClock())
    source.post(Arrive(request=make_request("a")))
    source.post(done(1))
    source.stop()
    assert [type(source()) for _ in range(3)] == [NodeDone, Arrive, StopSignal]
    assert source.ended.is_set()
    assert source.wait_ended(0.0)


def test_many_threads_lose_nothing() -> None:
    source = LiveSource(time.monotonic)
    threads = [
        threading.Thread(
            target=lambda base: [source.post(done(base + n)) for n in range(500)], args=(500 * t,)
        )
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    seen = set()
    while len(seen) < 2000:
        event = source()
        if event is not None:
            seen.add(event.node)
    for thread in threads:
        thread.join()
    assert source.backlog() == 0
