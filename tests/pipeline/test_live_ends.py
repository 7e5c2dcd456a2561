"""The live driver when it is stopped, dies or hangs: everything accepted ends all the same."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sage.runtime import JobManager

from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.pd_split import PDSplit
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.pipeline.watchdog import Watchdog
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import (
    NotRunning,
    Overloaded,
    PipelineDied,
)
from sage_llm_ops.types.requests import Request, RequestStatus
from tests.pipeline.live_helpers import Make, add_inline, nothing_left, wait


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


def test_sage_forgets_the_job(live: Make) -> None:
    manager = JobManager()
    before = (len(manager.jobs), len(manager.deleted_jobs))
    for _ in range(3):
        one = live()
        one.pipeline.stop(0.0)
    assert (len(manager.jobs), len(manager.deleted_jobs)) == before
