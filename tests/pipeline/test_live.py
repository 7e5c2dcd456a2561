"""The live driver, with workers that do what the test says."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sage.runtime import JobManager

from sage_llm_ops.engines.inline import InlineWorker
from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.pd_split import PDSplit
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.watchdog import Watchdog
from sage_llm_ops.testing import sim_instances
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import (
    DeadlineExpired,
    DuplicateRequest,
    EngineFailed,
    InvalidRequest,
    NoInstance,
    NotRunning,
    Overloaded,
    PipelineDied,
    Quarantined,
    RequestCancelled,
    RequestFailed,
    UnknownName,
    WorkerLost,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.requests import Request, RequestStatus
from sage_llm_ops.types.wire import Tokens

Live = Any
Make = Callable[..., Live]


def add_inline(one: Live, n: int = 1, **options: Any) -> list[InlineWorker]:
    workers = []
    for instance in sim_instances(n, model="m", **options):
        worker = InlineWorker(instance, instance.options, one.pipeline.hands)
        one.pipeline.attach(worker)
        worker.start()
        workers.append(worker)
    return workers


def nothing_left(one: Live) -> None:
    plane = one.pipeline.plane
    assert (plane.jobs, plane.running, plane.fleet.reservations) == ({}, {}, {})
    assert one.pipeline.hands.handles == {}
    assert one.pipeline.hands._routes == {}
    assert one.pipeline.source.pending() == []
    assert plane.broken == 0


def test_outputs_come_back_and_completion_is_reported(live: Make) -> None:
    """Regression: outputs were once discarded, and COMPLETED was never reported."""
    one = live()
    (worker,) = add_inline(one, timing="instant")
    handles = [one.pipeline.submit(make_request(f"r{n}", max_tokens=n + 1)) for n in range(50)]
    for n, handle in enumerate(handles):
        result = handle.result(5.0)
        assert len(result.token_ids) == n + 1 == result.usage.completion_tokens
        assert result.finish_reason == "length"
        assert handle.status is RequestStatus.COMPLETED
    assert one.pipeline.plane.metrics.total().completed == 50
    assert one.pipeline.stop(5.0)
    nothing_left(one)
    worker.stop(1.0)


def test_the_door(live: Make) -> None:
    one = live(max_in_flight=2)
    worker = one.add("w0")
    first = one.pipeline.submit(make_request("a"))
    with pytest.raises(DuplicateRequest, match="'a'"):
        one.pipeline.submit(make_request("a"))
    one.pipeline.submit(make_request("b"))
    with pytest.raises(Overloaded, match=r"max_in_flight=2") as caught:
        one.pipeline.submit(make_request("c"))
    assert caught.value.retry_after_s
    wait(lambda: len(worker.held) == 2)
    worker.done(worker.node_of("a"), 1)
    first.result(5.0)
    one.pipeline.submit(make_request("c"))
    one.pipeline.stop(0.0)
    with pytest.raises(NotRunning, match="start it first"):
        one.pipeline.submit(make_request("d"))


def wait(condition: Callable[[], Any], timeout_s: float = 5.0) -> None:
    """Poll: what is waited for happens on SAGE's thread, which tells nobody."""
    ticks = threading.Event()
    for _ in range(int(timeout_s / 0.002)):
        if condition():
            return
        ticks.wait(0.002)
    raise TimeoutError("it did not happen")


def test_a_closed_loop_at_the_bound_is_never_refused(live: Make) -> None:
    """Whoever was told that his request ended has its place already."""
    one = live(max_in_flight=1)
    add_inline(one, timing="instant")
    for n in range(300):
        one.pipeline.submit(make_request(f"r{n}")).result(5.0)


@pytest.mark.parametrize("where", ["at the source", "queued", "running", "ended"])
def test_cancel(live: Make, where: str) -> None:
    one = live()
    worker = one.add("w0", slots=1)
    blocks = one.pipeline.submit(make_request("blocks"))
    wait(lambda: worker.held)
    if where in ("running", "ended"):
        worker.done(worker.node_of("blocks"), 1)
        blocks.result(5.0)
    handle = one.pipeline.submit(make_request("a"))
    if where != "at the source":
        one.settled()
    if where == "ended":
        worker.done(worker.node_of("a"), 1)
        handle.result(5.0)
    one.pipeline.cancel(RequestId("a"))
    if where == "running":
        wait(lambda: worker.cancelled)
        worker.done(worker.node_of("a"), reason="cancelled")
    if where == "ended":
        one.settled()
        assert handle.result().finish_reason == "length"
    else:
        with pytest.raises(RequestCancelled):
            handle.result(5.0)


def test_a_cancel_does_not_overtake_its_request(live: Make) -> None:
    """Regression: completions and cancels go first, so the cancel came before there was anything
    to cancel, and the request ran."""
    one = live()
    one.add("w0")
    handles = []
    for n in range(200):
        handles.append(one.pipeline.submit(make_request(f"r{n}")))
        one.pipeline.cancel(RequestId(f"r{n}"))
    worker = one.workers["w0"]
    ended: set[NodeId] = set()

    def acknowledge() -> bool:
        for node in list(worker.taken):
            if node.id in worker.cancelled and node.id not in ended:
                ended.add(node.id)
                worker.done(node, reason="cancelled")
        return all(handle.done() for handle in handles)

    wait(acknowledge)
    assert {handle.status for handle in handles} == {RequestStatus.CANCELLED}
    one.settled()
    nothing_left(one)


@pytest.mark.parametrize("where", ["queued", "running"])
def test_a_deadline(live: Make, where: str) -> None:
    one = live()
    worker = one.add("w0", slots=1)
    if where == "queued":
        one.pipeline.submit(make_request("blocks"))
        wait(lambda: worker.held)
    handle = one.pipeline.submit(make_request("a", timeout_s=0.02))
    if where == "running":
        wait(lambda: worker.cancelled)
        worker.tokens(worker.node_of("a"), 7)
        worker.done(worker.node_of("a"), reason="cancelled")
    with pytest.raises(DeadlineExpired, match="timeout_ms") as caught:
        handle.result(5.0)
    assert caught.value.partial == ((7,) if where == "running" else ())


def test_priority_changes_the_order_of_execution(live: Make) -> None:
    one = live(scheduling_policy="priority")
    worker = one.add("w0", slots=1)
    one.pipeline.submit(make_request("blocks"))
    wait(lambda: worker.held)
    names = [f"{priority}-{n}" for n in range(5) for priority in (3, 1, 4, 0, 2)]
    handles = [one.pipeline.submit(make_request(name, priority=int(name[0]))) for name in names]
    one.settled()
    while not all(handle.done() for handle in handles):
        wait(lambda: worker.held)
        worker.done(next(iter(worker.held.values())), 1)
        one.settled()
    assert [node.request for node in worker.taken[1:]] == sorted(names)


def test_a_retry_goes_on_exactly_where_it_stopped(live: Make) -> None:
    one = live()
    first, second = one.add("w0", slots=1), one.add("w1", slots=1)
    handle = one.pipeline.submit(make_request("a", max_tokens=6))
    wait(lambda: first.held)
    first.tokens(first.node_of("a"), 11, 12)
    first.kill()
    wait(lambda: second.held)
    node = second.node_of("a")
    assert (node.attempt, node.offset, node.sampling.max_tokens) == (2, 2, 4)
    assert np.frombuffer(node.tokens, "<i4").tolist() == [1, 2, 3, 4, 11, 12]
    second.done(node, 13, 14, 15, 16)
    result = handle.result(5.0)
    assert result.token_ids == (11, 12, 13, 14, 15, 16)
    assert result.attempts == 2


def test_a_retry_of_a_real_stream_gives_the_tokens_of_an_undisturbed_one(live: Make) -> None:
    one = live()
    workers = add_inline(one, 2, decode_ms=[0.0, 0.0, 2.0], prefill_ms=[0.0, 0.0, 1.0])
    truth = one.pipeline.submit(make_request("truth", max_tokens=30)).result(5.0)
    handle = one.pipeline.submit(make_request("a", max_tokens=30))
    wait(lambda: len(handle.tokens) >= 3)
    next(worker for worker in workers if worker.id == handle.worker).kill()
    result = handle.result(5.0)
    assert result.token_ids == truth.token_ids
    assert result.attempts == 2
    for worker in workers:
        worker.stop(1.0)


def test_sampled_output_that_was_seen_fails_typed_with_its_part(live: Make) -> None:
    one = live()
    worker = one.add("w0")
    one.add("w1")
    handle = one.pipeline.submit(make_request("a", temperature=1.0))
    wait(lambda: worker.held)
    worker.tokens(worker.node_of("a"), 11, 12)
    worker.kill()
    with pytest.raises(WorkerLost, match="2 tokens were delivered") as caught:
        handle.result(5.0)
    assert caught.value.partial == (11, 12)


def test_quarantine(live: Make) -> None:
    one = live()
    workers = [one.add(f"w{n}") for n in range(3)]
    handle = one.pipeline.submit(make_request("poison"))
    for _ in range(2):
        wait(lambda: any(worker.held for worker in workers))
        next(worker for worker in workers if worker.held).kill()
    with pytest.raises(Quarantined, match="2 workers died"):
        handle.result(5.0)
    healthy = next(worker for worker in workers if worker.alive)
    assert not healthy.held


def test_a_stream_that_makes_no_sense_fails_typed_and_the_pipeline_lives(live: Make) -> None:
    one = live()
    worker = one.add("w0")
    handle = one.pipeline.submit(make_request("a"))
    for _ in range(4):
        wait(lambda: worker.held)
        worker.report(Tokens(worker.held.popitem()[0], 99, [1]))
    with pytest.raises(EngineFailed, match="token 99 came where 0 was due"):
        handle.result(5.0)
    assert one.pipeline.running


def test_stop_drains_first(live: Make) -> None:
    one = live()
    worker = one.add("w0", slots=1)
    handles = [one.pipeline.submit(make_request(f"r{n}")) for n in range(5)]
    stopped: list[bool] = []
    stopper = threading.Thread(target=lambda: stopped.append(one.pipeline.stop(5.0)))
    stopper.start()
    while stopper.is_alive():
        if worker.held:
            worker.done(next(iter(worker.held.values())), 1)
        stopper.join(0.002)
    assert stopped == [True]
    assert {handle.status for handle in handles} == {RequestStatus.COMPLETED}
    nothing_left(one)


def test_stop_fails_what_is_left_by_name_once(live: Make) -> None:
    ends: list[str] = []
    one = live(remember=lambda handle: ends.append(handle.request_id))
    worker = one.add("w0", slots=1)
    handles = [one.pipeline.submit(make_request(f"r{n}")) for n in range(3)]
    wait(lambda: worker.held)
    worker.tokens(worker.node_of("r0"), 9)
    assert not one.pipeline.stop(0.05)
    assert one.pipeline.stop(0.05)
    for handle in handles:
        with pytest.raises(PipelineDied, match=r"'r\d'.*not ended after 0.05 s"):
            handle.result(0.0)
    assert handles[0].tokens == [9]
    worker.done(worker.node_of("r0"), 8)
    assert sorted(ends) == ["r0", "r1", "r2"]


def test_submit_while_it_stops(live: Make) -> None:
    """Whoever slipped in ends, too."""
    one = live()
    add_inline(one, timing="instant")
    handles, refused = [], threading.Event()

    def hammer(thread: int) -> None:
        for n in range(100_000):
            try:
                handles.append(one.pipeline.submit(make_request(f"{thread}-{n}")))
            except NotRunning:
                refused.set()
                return
            except Overloaded:
                continue

    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    wait(lambda: len(handles) > 200)
    one.pipeline.stop(5.0)
    for thread in threads:
        thread.join(5.0)
    assert refused.is_set()
    for handle in handles:
        assert handle.done(), handle.request_id
    assert one.pipeline.hands.handles == {}


class KillsTheThread(PDSplit):
    """Raises, and raises again when it should say so: the source's thread ends."""

    def offer(self, event: Any) -> Any:
        if event.job.request.id == "bad":
            raise RuntimeError("boom")
        return super().offer(event)

    def failed(self, event: Any, error: Exception) -> Any:
        raise error


QUICK = functools.partial(Watchdog, dump_after_s=0.04, fail_after_s=0.08)
ONLY_DEATHS = functools.partial(Watchdog, dump_after_s=0.04, fail_after_s=60.0)
"""On a busy machine a thread may take a tenth of a second to die: that is no dispatch that hangs."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_source_thread_fails_what_is_pending_by_name(live: Make) -> None:
    one = live(registry={**OPERATORS, "pd_split": KillsTheThread}, watchdog=ONLY_DEATHS)
    one.add("w0")
    before = one.pipeline.submit(make_request("before"))
    bad = one.pipeline.submit(make_request("bad"))
    for handle in (before, bad):
        with pytest.raises(PipelineDied, match="thread of the SAGE source died"):
            handle.result(5.0)
    assert not one.pipeline.running
    with pytest.raises(NotRunning):
        one.pipeline.submit(make_request("after"))
    began = threading.Event()
    threading.Timer(1.0, began.set).start()
    one.pipeline.stop(5.0)
    assert not began.is_set(), "nothing is left to wait for"


class Late(Request):
    """Its pipeline dies between the look at the door and the taking of the id."""

    def __getattribute__(self, name: str) -> Any:
        if name == "id" and DYING:
            DYING.pop()("it died meanwhile")
        return super().__getattribute__(name)


DYING: list[Callable[[str], None]] = []


def test_submit_while_it_dies(live: Make) -> None:
    """Regression: nobody ended such a request, because only a source that stops in order said so."""
    one = live()
    given = make_request("late")
    late = Late(given.id, given.model, given.tokens, given.n_prompt, given.sampling)
    DYING.append(one.pipeline._died)
    with pytest.raises(PipelineDied, match="it died meanwhile"):
        one.pipeline.submit(late).result(5.0)


class Hangs(Schedule):
    """Does not come back until it is told to."""

    go = threading.Event()

    def push(self, event: Any) -> Any:
        self.go.wait(20.0)
        return super().push(event)


def test_a_stuck_dispatch(live: Make, caplog: pytest.LogCaptureFixture) -> None:
    Hangs.go.clear()
    one = live(registry={**OPERATORS, "schedule": Hangs}, watchdog=QUICK)
    one.add("w0")
    handle = one.pipeline.submit(make_request("a"))
    waits = one.pipeline.submit(make_request("b"))
    for each in (handle, waits):
        with pytest.raises(PipelineDied, match="one dispatch has lasted"):
            each.result(5.0)
    assert "self.go.wait" in caplog.text
    Hangs.go.set()  # it wakes up and finds that all have been told
    one.pipeline.stop(5.0)
    assert one.pipeline.source.ended.is_set()


def test_a_reader_that_is_gone_does_not_hold_up_the_drain(live: Make) -> None:
    import asyncio

    one = live()
    worker = one.add("w0")
    handle = one.pipeline.submit(make_request("a"))
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(_wait(handle))
    loop.run_until_complete(asyncio.sleep(0))
    wait(lambda: worker.held)
    waiting_loop_closed(loop)
    worker.done(worker.node_of("a"), 1)
    assert one.pipeline.stop(5.0)
    assert handle.result().token_ids == (1,)
    assert not waiting.done()
    waiting.get_coro().close()


async def _wait(handle: Any) -> Any:
    return await handle


def waiting_loop_closed(loop: Any) -> None:
    """As `asyncio.run` would not: with a task that still waits."""
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()


def test_detach_fails_over_and_forgets(live: Make) -> None:
    one = live()
    first, second = one.add("w0"), one.add("w1")
    handle = one.pipeline.submit(make_request("a"))
    wait(lambda: first.held)
    first.tokens(first.node_of("a"), 1)
    one.pipeline.detach(WorkerId("w0"), "scaled down")
    wait(lambda: second.held)
    second.done(second.node_of("a"), 2, 3, 4)
    assert handle.result(5.0).token_ids == (1, 2, 3, 4)
    first.start()
    one.settled()
    assert one.pipeline.plane.fleet.describe()[0]["state"] == "gone"


def test_drained_it_gets_nothing_new(live: Make) -> None:
    one = live()
    first, second = one.add("w0"), one.add("w1")
    one.pipeline.drain_worker(WorkerId("w0"))
    for n in range(4):
        one.pipeline.submit(make_request(f"r{n}"))
    wait(lambda: len(second.held) == 4)
    assert not first.held


def test_live_options(live: Make) -> None:
    one = live()
    for operator, option, value, said in (
        ("admid", "max_pending", 1, "did you mean 'admit'"),
        ("admit", "max_pendig", 1, "did you mean 'max_pending'"),
        ("schedule", "strategy", "fifo", "known: none"),
    ):
        with pytest.raises(UnknownName, match=said):
            one.pipeline.configure(operator, option, value)
    with pytest.raises(Exception, match="'much'"):
        one.pipeline.configure("admit", "max_pending", "much")
    one.pipeline.configure("admit", "max_pending", 0)
    with pytest.raises(Overloaded, match="max_pending=0"):
        one.pipeline.submit(make_request("a")).result(5.0)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"priority": "high"}, InvalidRequest),
        ({"n_prompt": None}, RequestFailed),
        ({"sampling": None}, RequestFailed),
        ({"timeout_s": "soon"}, RequestFailed),
        ({"timeout_s": float("nan")}, InvalidRequest),
        ({"model": 7}, NoInstance),
        ({"tokens": object()}, None),
    ],
)
def test_a_malformed_request_ends_typed_and_the_pipeline_lives(
    live: Make, wrong: dict[str, Any], kind: type[Exception] | None, tmp_path: Path
) -> None:
    """The manager's door refuses these; here they are somebody's own `Request`. What cannot be
    recorded ends the recording, and nothing else."""
    one = live(scheduling_policy="priority", record=tmp_path / "r.jsonl")
    worker = one.add("w0", slots=1)
    blocks = one.pipeline.submit(make_request("blocks"))
    wait(lambda: worker.held)
    names = ["waits", "bad", "after"]
    requests = {name: make_request(name) for name in names}
    for name, value in wrong.items():
        setattr(requests["bad"], name, value)
    handles = {name: one.pipeline.submit(requests[name]) for name in names}
    one.settled()

    def finish() -> bool:
        if worker.held:
            worker.done(next(iter(worker.held.values())), 1)
        return all(handle.done() for handle in handles.values())

    wait(finish)
    if kind is None:
        assert handles["bad"].result(0.0).token_ids == (1,)
    else:
        with pytest.raises(kind) as caught:
            handles["bad"].result(0.0)
        assert type(caught.value) is kind
    for handle in (blocks, handles["waits"], handles["after"]):
        assert handle.result(0.0).token_ids == (1,)
    one.pipeline.stop(5.0)
    if kind is None:
        recording = Recording(tmp_path / "r.jsonl")
        assert list(recording.events())
        assert recording.footer is None


def test_sage_forgets_the_job(live: Make) -> None:
    manager = JobManager()
    before = (len(manager.jobs), len(manager.deleted_jobs))
    for _ in range(3):
        one = live()
        one.pipeline.stop(0.0)
    assert (len(manager.jobs), len(manager.deleted_jobs)) == before
