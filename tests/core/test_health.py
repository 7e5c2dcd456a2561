"""Workers that stop answering are killed, with the numbers, and nobody else is."""

from __future__ import annotations

import logging
import os
import signal

import pytest

from sage_llm_ops.core import HealthPolicy
from sage_llm_ops.core.health import Health
from sage_llm_ops.engines.base import Sign
from sage_llm_ops.testing import HeldWorker, ManualClock
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import ConfigError
from tests.core.fleets import QUICK, echo, held, instance, request, simulated, until

POLICY = HealthPolicy(interval_s=1.0, silent_s=3.0, stuck_s=10.0)


class Watched:
    """One worker that says what the test wants, asked when the test wants."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.uplink = RecordingUplink()
        self.worker = HeldWorker(instance(), self.uplink)
        self.worker.start()
        self.health = Health(POLICY, lambda: [self.worker], self.clock)

    def ask(self, sign: Sign | None, times: int = 1, every_s: float = 1.0) -> bool:
        """Whether it was killed."""
        self.worker.sign = sign
        killed = []
        for _ in range(times):
            self.clock.advance(every_s)
            killed += self.health.check()
        return bool(killed)

    @property
    def reason(self) -> str:
        return self.uplink.wait_down("w0")


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "sage_llm_ops")


def test_silence_ends_it_and_the_reason_names_the_numbers() -> None:
    watched = Watched()
    assert not watched.ask(Sign.SILENT, 2)
    assert watched.ask(Sign.SILENT)
    assert watched.reason == "it gave no answer and used no processor for 3.0 s (silent_s=3)"


def test_an_answer_begins_the_count_anew() -> None:
    watched = Watched()
    for _ in range(5):
        assert not watched.ask(Sign.SILENT, 2)
        assert not watched.ask(Sign.ANSWERED)


def test_a_long_step_is_no_silence_but_has_a_limit_too() -> None:
    watched = Watched()
    assert not watched.ask(Sign.WORKING, 9)
    assert watched.ask(Sign.WORKING)
    assert watched.reason == "it gave no answer for 10.0 s (stuck_s=10)"


def test_who_owes_no_answer_is_left_alone() -> None:
    watched = Watched()
    assert not watched.ask(Sign.SILENT, 2)
    assert not watched.ask(None, 100)
    assert not watched.ask(Sign.SILENT, 2)


def test_a_new_incarnation_owes_nothing_for_the_old_one() -> None:
    watched = Watched()
    assert not watched.ask(Sign.SILENT, 2)
    watched.worker.kill()
    watched.worker.start()
    assert not watched.ask(Sign.SILENT, 2)


def test_a_plane_that_was_stopped_itself_blames_nobody() -> None:
    watched = Watched()
    assert not watched.ask(Sign.SILENT, every_s=3600.0)


@pytest.mark.parametrize(
    "wrong", [{"interval_s": 0.0}, {"silent_s": 1.0, "interval_s": 2.0}, {"stuck_s": 1.0}]
)
def test_limits_that_contradict_each_other_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="none larger than the next"):
        HealthPolicy(**wrong)


FAST = HealthPolicy(interval_s=0.05, silent_s=0.5, stuck_s=600.0)


async def test_a_stopped_process_is_killed_and_its_request_goes_on_elsewhere() -> None:
    async with simulated(0, restart=QUICK, health=FAST) as manager:
        for name in ("w0", "w1"):
            manager.register_instance(echo(name, step_s=0.02))
        await manager.start()
        handle = await manager.submit(request(max_tokens=100))
        async for _ in handle.stream():
            break
        stopped = handle.worker
        assert stopped is not None
        os.kill(manager.executor.worker(stopped).describe()["pid"], signal.SIGSTOP)
        result = await handle
        assert (result.usage.completion_tokens, result.attempts) == (100, 2)
        assert result.instance_id != stopped
        await until(lambda: manager.executor.worker(stopped).incarnation == 2)


async def test_a_long_step_and_a_long_start_are_not_killed() -> None:
    """Each step is longer than all limits, and computes; so is the start."""
    short = HealthPolicy(interval_s=0.02, silent_s=0.25, stuck_s=600.0)
    async with simulated(0, restart=QUICK, health=short) as manager:
        manager.register_instance(echo("w0", spin_s=0.6, start_s=0.5))
        await manager.start()
        result = await manager.process_request("Hello", {"max_tokens": 2, "temperature": 0.0})
        assert (len(result.token_ids), result.attempts) == (2, 1)
        assert manager.executor.worker("w0").incarnation == 1


async def test_the_plane_asks_by_itself() -> None:
    async with held("w0", restart=QUICK, health=FAST) as (manager, fleet):
        fleet["w0"].sign = Sign.SILENT
        await until(lambda: fleet["w0"].incarnation == 2)
        fleet["w0"].sign = Sign.ANSWERED
        assert "silent_s=0.5" in manager.control.supervisor.workers[fleet["w0"].id].reason
