from __future__ import annotations

import asyncio
import gc
import threading

from sage_llm_ops.pipeline.loop_bridge import LoopBridge, hold, release


async def test_calls_run_in_the_loop_in_the_order_of_posts() -> None:
    bridge, done, seen = LoopBridge.here(), asyncio.Event(), []
    home = threading.get_ident()

    def post() -> None:
        for number in range(1000):
            bridge.post(lambda number=number: seen.append((number, threading.get_ident())))
        bridge.post(done.set)

    threading.Thread(target=post).start()
    await asyncio.wait_for(done.wait(), 10.0)
    assert seen == [(number, home) for number in range(1000)]


async def test_a_burst_wakes_the_loop_once() -> None:
    woken = 0
    loop = asyncio.get_running_loop()

    class Counting:
        """The loop, as far as the bridge knows it."""

        def call_soon_threadsafe(self, call: object) -> None:
            nonlocal woken
            woken += 1
            loop.call_soon(call)  # type: ignore[arg-type]

    bridge, seen = LoopBridge(Counting()), []  # type: ignore[arg-type]
    for round_ in range(3):
        for number in range(100):
            bridge.post(lambda number=number: seen.append(number))
        await asyncio.sleep(0)
        assert woken == round_ + 1
    assert seen == list(range(100)) * 3


async def test_what_comes_while_it_runs_has_its_own_turn() -> None:
    bridge, turns = LoopBridge.here(), []

    def again() -> None:
        turns.append(len(turns))
        if len(turns) < 5:
            bridge.post(again)

    bridge.post(again)
    while len(turns) < 5:
        before = len(turns)
        await asyncio.sleep(0)
        assert len(turns) <= before + 1


def test_one_for_each_loop_and_none_once_nobody_waits() -> None:
    async def same() -> bool:
        return LoopBridge.here() is LoopBridge.here()

    async def here() -> LoopBridge:
        return LoopBridge.here()

    assert asyncio.run(same())
    held = asyncio.run(here())
    assert asyncio.run(here()) is not held
    del held
    gc.collect()
    assert not LoopBridge._bridges


def test_a_closed_loop_loses_the_call_and_nothing_else() -> None:
    async def here() -> LoopBridge:
        return LoopBridge.here()

    bridge = asyncio.run(here())
    bridge.post(lambda: 1 / 0)


async def test_a_thread_that_holds_wakes_the_loop_when_it_is_done() -> None:
    bridge, seen, ended = LoopBridge.here(), [], asyncio.Event()
    posted, go_on = threading.Event(), threading.Event()

    def work() -> None:
        assert hold()
        assert not hold(), "who is inside a hold leaves the release to whoever began it"
        bridge.post(lambda: seen.append(1))
        posted.set()
        go_on.wait(10.0)
        bridge.post(ended.set)
        release()

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.to_thread(posted.wait, 10.0)
    await asyncio.sleep(0)
    assert not seen
    go_on.set()
    await asyncio.wait_for(ended.wait(), 10.0)
    assert seen == [1]
    thread.join()


async def test_what_a_dead_thread_held_back_is_told_with_the_next_post_or_on_request() -> None:
    bridge, seen = LoopBridge.here(), []

    def dies() -> None:
        hold()
        bridge.post(lambda: seen.append("held"))

    for then in (lambda: bridge.post(lambda: None), LoopBridge.wake_all):
        seen.clear()
        dead = threading.Thread(target=dies)
        dead.start()
        dead.join()
        ended = asyncio.Event()
        then()
        asyncio.get_running_loop().call_soon_threadsafe(ended.set)
        await asyncio.wait_for(ended.wait(), 10.0)
        assert seen == ["held"]
