"""The inline worker: order, crashes, one thread for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from sage_llm_ops.engines.base import Uplink, Worker
from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.engines.pump import Pump
from sage_llm_ops.testing import FaultPlan, FaultyUplink, FaultyWorker, ManualClock, sim_instances
from sage_llm_ops.types.errors import UnknownName
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import (
    Accepted,
    CacheChanged,
    Done,
    EngineEvent,
    Failed,
    Hello,
    Stats,
    Tokens,
)

E = TypeVar("E", Accepted, Tokens, Done, Failed)
FAST: dict[str, Any] = {"speed": 50.0, "max_num_seqs": 16}


class Recorder:
    """An uplink that checks what every uplink may rely on."""

    def __init__(self, then: Callable[[EngineEvent], None] | None = None) -> None:
        self.log: list[tuple[str, WorkerId, int, object]] = []
        self.alive: dict[WorkerId, int] = {}
        self.inside: set[WorkerId] = set()
        self.wrong: list[str] = []
        self.stats = 0
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.then = then

    def on_events(self, worker: WorkerId, incarnation: int, events: Sequence[EngineEvent]) -> None:
        with self.lock:
            if worker in self.inside:
                self.wrong.append(f"two threads report for {worker}")
            self.inside.add(worker)
            if self.alive.get(worker) != incarnation:
                self.wrong.append(f"{worker} reports for incarnation {incarnation} while not up")
            self.log += [("event", worker, incarnation, event) for event in events]
            self.changed.notify_all()
        for event in events:
            if self.then:
                self.then(event)
        with self.lock:
            self.inside.discard(worker)

    def on_stats(self, worker: WorkerId, stats: Stats) -> None:
        self.stats += 1

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None:
        with self.lock:
            self.log.append(("cache", worker, incarnation, said))

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        with self.lock:
            self.alive[worker] = incarnation
            self.log.append(("up", worker, incarnation, hello))

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        with self.lock:
            if self.alive.get(worker) not in (incarnation, None):
                self.wrong.append("down of another incarnation")
            self.alive.pop(worker, None)
            self.log.append(("down", worker, incarnation, reason))
            self.changed.notify_all()

    def events(self, kind: type[E]) -> list[E]:
        with self.lock:
            return [row[3] for row in self.log if isinstance(row[3], kind)]

    def wait_ends(self, count: int, timeout_s: float = 20.0) -> None:
        def reached() -> bool:
            return sum(isinstance(row[3], Done | Failed) for row in self.log) >= count

        with self.lock:
            assert self.changed.wait_for(reached, timeout_s), "not all nodes ended in time"


def node(index: int, n: int = 10, out: int = 5) -> PlanNode:
    return PlanNode(
        id=NodeId(index),
        request=RequestId(f"r{index}"),
        worker="sim-0",
        attempt=1,
        tokens=bytes(4 * n),
        n_tokens=n,
        sampling=SamplingParams(max_tokens=out),
    )


def make(uplink: Uplink, pump: Pump, n: int = 1, **options: Any) -> list[InlineWorker]:
    return [
        InlineWorker(instance, instance.options, uplink, pump=pump)
        for instance in sim_instances(n, **options)
    ]


def test_it_is_a_worker() -> None:
    worker: Worker = make(Recorder(), Pump())[0]
    assert worker.incarnation == 0
    assert worker.submit(node(1)) is False
    assert worker.describe()["state"] == "down"


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(UnknownName, match="max_num_seqs"):
        sim_instances(1, max_num_seq=3)


def test_an_instant_engine_answers_inside_submit() -> None:
    seen = Recorder()
    worker = make(seen, Pump(threaded=False), timing="instant")[0]
    worker.start()
    assert worker.submit(node(1))
    assert [type(row[3]) for row in seen.log] == [Hello, Accepted, Tokens, Done]
    assert len(seen.events(Tokens)[0].ids) == 5
    worker.stop(1.0)


def test_a_manual_clock_moves_everything() -> None:
    clock, seen = ManualClock(), Recorder()
    pump = Pump(clock, threaded=False)
    worker = make(seen, pump)[0]
    worker.start()
    worker.submit(node(1, out=3))
    assert not seen.events(Tokens)
    while (wake := pump.next_wake) is not None:
        clock.to(wake)
        assert pump.run_due() == 1
        worker.check_integrity()
    assert [event.offset for event in seen.events(Tokens)] == [0, 1, 2]
    assert len(seen.events(Done)) == 1


def test_a_submit_from_inside_a_report_does_not_deadlock() -> None:
    pump = Pump(threaded=False)

    def chain(event: EngineEvent) -> None:
        if isinstance(event, Done) and event.node < 50:
            worker.submit(node(event.node + 1))

    seen = Recorder(chain)
    worker = make(seen, pump, timing="instant")[0]
    worker.start()
    worker.submit(node(1))
    assert [event.node for event in seen.events(Done)] == list(range(1, 51))


def test_kill_and_start_again() -> None:
    clock, seen = ManualClock(), Recorder()
    pump = Pump(clock, threaded=False)
    worker = make(seen, pump)[0]
    worker.start()
    worker.submit(node(1))
    worker.kill()
    worker.kill()
    assert worker.submit(node(2)) is False
    clock.advance(10.0)
    pump.run_due()
    worker.start()
    worker.submit(node(1))
    while (wake := pump.next_wake) is not None:
        clock.to(wake)
        pump.run_due()
    assert [row[0] for row in seen.log if row[0] != "event"] == ["up", "down", "up"]
    assert worker.incarnation == 2
    assert [(row[2], row[3].node) for row in seen.log if isinstance(row[3], Done)] == [(2, 1)]
    assert not seen.wrong


def test_a_delayed_start() -> None:
    clock, seen = ManualClock(), Recorder()
    pump = Pump(clock, threaded=False)
    instance = sim_instances(1)[0]
    worker = InlineWorker(instance, {}, seen, pump=pump, start_delay_s=2.0)
    worker.start()
    assert worker.submit(node(1)) is False
    assert worker.describe()["state"] == "starting"
    clock.advance(2.0)
    pump.run_due()
    assert seen.alive == {"sim-0": 1}
    worker.kill()
    worker.start()
    worker.kill()
    assert [row[0] for row in seen.log] == ["up", "down", "down"]


def test_stop_is_silent_and_ends_the_thread() -> None:
    seen, pump = Recorder(), Pump()
    workers = make(seen, pump, 3, **FAST)
    for worker in workers:
        worker.start()
        worker.submit(node(1, out=10_000))
    assert pump.alive
    for worker in workers:
        worker.stop(1.0)
        worker.stop(1.0)
    count = len(seen.log)
    deadline = time.monotonic() + 5.0
    while pump.alive and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not pump.alive
    assert len(seen.log) == count
    assert not [row for row in seen.log if row[0] == "down"]


def test_many_workers_share_one_thread() -> None:
    seen, pump = Recorder(), Pump()
    before = threading.active_count()
    workers = make(seen, pump, 64, **FAST)
    for index, worker in enumerate(workers):
        worker.start()
        worker.submit(node(index))
    assert threading.active_count() <= before + 1
    seen.wait_ends(64)
    for worker in workers:
        worker.stop(1.0)
    assert not seen.wrong


def test_wakes_do_not_pile_up() -> None:
    clock, seen = ManualClock(), Recorder()
    pump = Pump(clock, threaded=False)
    worker = make(seen, pump, visible_tokens=False, prefill_ms=(0, 0, 1))[0]
    worker.start()
    for index in range(200):
        worker.submit(node(index, out=400))
        clock.advance(0.0113)
        pump.run_due()
        assert pump.pending < 40
    while (wake := pump.next_wake) is not None:
        clock.to(wake)
        pump.run_due()
        worker.check_integrity()
    assert len(seen.events(Done)) == 200


def test_many_threads_and_crashes_keep_the_order() -> None:
    seen, pump = Recorder(), Pump()
    workers = make(seen, pump, 4, **FAST)
    taken: list[list[tuple[int, int]]] = [[] for _ in range(4)]
    for worker in workers:
        worker.start()

    def drive(lane: int) -> None:
        for step in range(120):
            worker = workers[(lane + step) % 4]
            index = lane * 1000 + step
            if worker.submit(node(index)):
                taken[lane].append((index, (lane + step) % 4))
            if step % 3 == 0:
                worker.cancel(NodeId(index))
            if step % 40 == 39:
                worker.kill()
                worker.start()

    threads = [threading.Thread(target=drive, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 20.0
    while pump.next_wake is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    for worker in workers:
        worker.check_integrity()
        worker.stop(1.0)
    assert not seen.wrong
    ends = [event.node for event in seen.events(Done)]
    assert len(ends) == len(set(ends)), "a node ended twice"
    for worker in workers:
        rows = [row for row in seen.log if row[1] == worker.id and row[0] != "event"]
        assert [row[0] for row in rows] == (["up", "down"] * len(rows))[: len(rows)]


def test_a_raising_uplink_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def explode(event: EngineEvent) -> None:
        if isinstance(event, Done):
            raise RuntimeError("no")

    seen = Recorder(explode)
    worker = make(seen, Pump(threaded=False), timing="instant")[0]
    worker.start()
    assert worker.submit(node(1))
    assert "the uplink raised" in caplog.text


def test_faults_come_from_their_seed() -> None:
    def run() -> list[str]:
        seen = Recorder()
        plan = FaultPlan(seed=3, kill=0.1, refuse=0.1, fail=0.3, repeat=0.1)
        pump = Pump(threaded=False)
        inner = make(FaultyUplink(seen, plan), pump, timing="instant")[0]
        worker: Worker = FaultyWorker(inner, plan)
        worker.start()
        for index in range(60):
            worker.submit(node(index))
            worker.start()
        assert not seen.wrong
        return [type(row[3]).__name__ for row in seen.log]

    assert run() == run()
    assert {"Failed", "Done", "str"} <= set(run())
