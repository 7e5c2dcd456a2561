"""Workers that die are started again, later each time, and given up by name."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from sage_llm_ops.core import RestartPolicy, describe
from sage_llm_ops.core.supervisor import Supervisor
from sage_llm_ops.testing import HeldWorker, ManualClock
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import NoInstance, Quarantined
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.wire import CacheChanged, EngineEvent, Hello, Stats
from tests.core.fleets import QUICK, SLOW, echo, held, holder, instance, request, simulated, until

STEADY = RestartPolicy(first_s=0.001, most_s=0.001, attempts=3, stable_s=10.0)


class Uplink:
    """What `LiveHands` does for a supervisor, and nothing else."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.given_up: list[tuple[WorkerId, str]] = []
        self.starts: list[float] = []
        self.over = threading.Event()
        self.clock = ManualClock()
        self.supervisor = Supervisor(policy, self._give_up, clock=self.clock)

    def _give_up(self, worker: WorkerId, reason: str) -> None:
        self.given_up.append((worker, reason))
        self.over.set()

    def on_up(self, worker: WorkerId, incarnation: int, hello: Hello) -> None:
        self.starts.append(time.monotonic())
        self.supervisor.notice("up", worker, "")

    def on_down(self, worker: WorkerId, incarnation: int, reason: str) -> None:
        self.starts.append(time.monotonic())
        self.supervisor.notice("down", worker, reason)

    def on_events(self, worker: WorkerId, incarnation: int, events: list[EngineEvent]) -> None: ...

    def on_stats(self, worker: WorkerId, stats: Stats) -> None: ...

    def on_cache(self, worker: WorkerId, incarnation: int, said: CacheChanged) -> None: ...


def worker(uplink: Uplink, *starts: str) -> HeldWorker:
    return HeldWorker(instance(), uplink, starts=starts)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "sage_llm_ops.supervisor")


def test_the_delay_doubles_up_to_a_limit_with_jitter() -> None:
    uplink = Uplink(RestartPolicy(first_s=0.01, most_s=0.04, attempts=10))
    uplink.supervisor.add(worker(uplink, "a", "b", "c", "d"))
    assert not uplink.supervisor.wait_up(10.0)
    delays = [b - a for a, b in zip(uplink.starts, uplink.starts[1:], strict=False)]
    assert len(delays) == 4
    for delay, nominal in zip(delays, (0.01, 0.02, 0.04, 0.04), strict=True):
        assert delay >= 0.5 * nominal
    uplink.supervisor.stop(1.0)


def test_it_is_given_up_after_so_many_failed_restarts() -> None:
    uplink = Uplink(STEADY)
    broken = worker(uplink, *"abcdefgh")
    uplink.supervisor.add(broken)
    assert uplink.over.wait(10.0)
    assert uplink.given_up == [("w0", "d")]
    assert broken.incarnation == 4, "the first start and three more"
    assert [watched.given_up for watched in uplink.supervisor.wait_ready(1.0)] == [True]
    uplink.supervisor.stop(1.0)


def test_who_dies_soon_after_coming_up_again_and_again_is_given_up() -> None:
    uplink = Uplink(STEADY)
    shaky = worker(uplink)
    uplink.supervisor.add(shaky)
    for _ in range(STEADY.attempts):
        uplink.clock.advance(STEADY.stable_s - 0.1)
        shaky.kill("out of memory")
        assert not uplink.supervisor.wait_up(10.0)
    told = uplink.supervisor.workers[shaky.id].describe()
    assert told == {"failures": 3, "next_start_s": None, "last_end": "out of memory"}
    shaky.kill("out of memory")
    assert uplink.over.wait(10.0)
    assert uplink.given_up == [("w0", "out of memory")]
    uplink.supervisor.stop(1.0)


def test_when_it_is_started_again_is_told() -> None:
    uplink = Uplink(SLOW)
    shaky = worker(uplink)
    uplink.supervisor.add(shaky)
    shaky.kill()
    due = uplink.supervisor.workers[shaky.id].describe()["next_start_s"]
    assert 0.4 * SLOW.first_s < due <= SLOW.first_s
    uplink.supervisor.stop(1.0)


def test_who_stayed_up_for_long_enough_begins_the_count_anew() -> None:
    uplink = Uplink(STEADY)
    lively = worker(uplink)
    uplink.supervisor.add(lively)
    for _ in range(3 * STEADY.attempts):
        uplink.clock.advance(STEADY.stable_s)
        lively.kill()
        assert not uplink.supervisor.wait_up(10.0)
    assert not uplink.given_up
    uplink.supervisor.stop(1.0)


def test_wait_ready_ends_with_the_first_failure_and_says_who() -> None:
    uplink = Uplink(SLOW)
    uplink.supervisor.add(worker(uplink, "no device"))
    assert [watched.reason for watched in uplink.supervisor.wait_ready(10.0)] == ["no device"]
    uplink.supervisor.stop(1.0)


def test_a_removed_worker_is_not_started_nor_is_the_next_one_of_its_name() -> None:
    """The old one's restart is still due when the new one, of the same name, is up already."""
    uplink = Uplink(RestartPolicy(first_s=0.02, most_s=0.02))
    old = worker(uplink, "died")
    uplink.supervisor.add(old)
    uplink.supervisor.remove(old.id)
    new = worker(uplink)
    uplink.supervisor.add(new)
    probe = HeldWorker(instance("probe"), uplink, starts=["once"])  # type: ignore[arg-type]
    uplink.supervisor.add(probe)
    assert not uplink.supervisor.wait_up(10.0), "by then the old one's turn is over"
    assert (old.incarnation, new.incarnation) == (1, 1)
    uplink.supervisor.stop(1.0)


def test_stop_ends_restarts_before_it_stops_workers() -> None:
    uplink = Uplink(STEADY)
    broken = worker(uplink, *"a" * 2)
    uplink.supervisor.add(broken)
    uplink.supervisor.stop(1.0)
    assert broken.stopped
    assert not [each for each in threading.enumerate() if each.name == "sage-llm-ops-supervisor"]


def test_a_worker_whose_start_raises_counts_as_failed(caplog: pytest.LogCaptureFixture) -> None:
    class Raises:
        id = WorkerId("w0")
        calls = 0

        def start(self) -> None:
            self.calls += 1
            if self.calls > 1:
                raise OSError("no more processes")

        def stop(self, timeout_s: float) -> None: ...

    uplink = Uplink(STEADY)
    raises = Raises()
    uplink.supervisor.add(raises)  # type: ignore[arg-type]
    uplink.supervisor.notice("down", raises.id, "first")
    assert uplink.over.wait(10.0)
    assert uplink.given_up == [("w0", "no more processes")]
    assert raises.calls == 1 + STEADY.attempts
    uplink.supervisor.stop(1.0)


# -- with the control plane around it ---------------------------------------------------------


async def test_a_request_survives_the_death_of_its_worker() -> None:
    async with held("w0", restart=QUICK) as (manager, fleet):
        await manager.submit_request(request("r", max_tokens=2))
        fleet["w0"].wait_for("r")
        fleet["w0"].say("r", [65])
        fleet["w0"].kill()
        fleet["w0"].wait_for("r")
        fleet["w0"].say("r", [66])
        fleet["w0"].end("r")
        result = await manager.wait_for_result("r", 10.0)
        assert (result.text, result.attempts) == ("AB", 2)


async def test_two_deaths_and_it_is_kept_from_the_others() -> None:
    async with held("w0", "w1", restart=SLOW) as (manager, fleet):
        await manager.submit_request(request("r"))
        for _ in range(2):
            fleet[(await holder(fleet, "r"))[0]].kill()
        with pytest.raises(Quarantined, match="2 workers died"):
            await manager.wait_for_result("r", 10.0)


async def test_what_waits_for_a_worker_that_is_given_up_fails_by_name() -> None:
    scripted = {"starts": list("abcdefgh"), "capabilities": Capabilities()}
    async with held(workers={"w0": scripted}, restart=QUICK) as (manager, fleet):
        manager.register_instance(instance("w0"))
        await manager.submit_request(request("r"))
        assert (await manager.get_request_status("r")).state == "queued"
        with pytest.raises(NoInstance, match="no instance is left that does 'generate'"):
            await manager.wait_for_result("r", 10.0)
        assert fleet["w0"].incarnation == 1 + QUICK.attempts
        assert not manager.executor.instances
        await until(lambda: "w0" not in manager.control.pipeline.hands.workers)
        (row,) = describe(manager.control)
        assert (row["worker"], row["state"], row["last_end"]) == ("w0", "given up", "d")
        fleet.options.clear()
        manager.register_instance(instance("w0"))
        await manager.submit_request(request("again"))
        fleet["w0"].wait_for("again")


async def test_a_process_that_dies_is_started_again() -> None:
    async with simulated(0, restart=QUICK) as manager:
        manager.register_instance(echo("w0"))
        await manager.start()
        first = manager.executor.worker("w0").describe()["pid"]
        manager.executor.worker("w0").kill()
        await until(lambda: manager.executor.worker("w0").incarnation == 2)
        result = await manager.process_request("Hello", {"max_tokens": 3, "temperature": 0.0})
        assert len(result.token_ids) == 3
        assert manager.executor.worker("w0").describe()["pid"] != first
