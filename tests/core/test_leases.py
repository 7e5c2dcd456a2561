"""Instances that stay as long as they are heard from."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sage_llm_ops.core.leases import Leases
from sage_llm_ops.testing import ManualClock
from sage_llm_ops.types.errors import ConfigError, UnknownName
from tests.core.fleets import held, holder, instance, request, until


def test_silence_ends_a_lease_once_and_a_heartbeat_renews_it() -> None:
    clock = ManualClock()
    leases = Leases(clock)
    leases.grant("a", 10.0)
    leases.grant("b", 4.0)
    clock.advance(3.0)
    assert leases.renew("b") == 4.0
    clock.advance(3.9)
    assert leases.expired() == []
    clock.advance(0.1)
    assert leases.expired() == [("b", 4.0)]
    assert leases.expired() == []
    with pytest.raises(UnknownName, match=r"'b'.*known: a"):
        leases.renew("b")
    leases.forget("a")
    clock.advance(100.0)
    assert leases.expired() == []


@pytest.mark.parametrize("wrong", [0, -1.0, "10", True, float("nan")])
def test_what_is_no_length_of_time_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="lease_s"):
        Leases().grant("a", wrong)  # type: ignore[arg-type]


async def test_an_instance_that_is_not_heard_from_leaves_and_its_request_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with held("stays") as (manager, fleet):
        plane = manager.control
        plane.register_leased(instance("leased"), 60.0)
        assert plane.heartbeat("leased") == 60.0
        await manager.submit_request(request("r"))
        await manager.submit_request(request("s"))
        (name, _) = await holder(fleet, "r")
        mine = "r" if name == "leased" else "s"
        fleet["leased"].wait_for(mine)
        await manager.unregister_instance("leased", drain=False)
        with pytest.raises(UnknownName, match="lease of instance 'leased'"):
            plane.heartbeat("leased")
        plane.register_leased(instance("leased"), 0.01)
        await until(lambda: "leased" not in manager.executor.instances)
        assert "instance leased gave no heartbeat for 0.01 s: unregistered" in caplog.text
        for each in ("r", "s"):
            fleet["stays"].wait_for(each)


async def test_a_refused_lease_registers_nothing() -> None:
    async with held("w0") as (manager, _):
        with pytest.raises(ConfigError, match="lease_s=0"):
            manager.control.register_leased(instance("w1"), 0)
        assert list(manager.executor.instances) == ["w0"]
        with pytest.raises(UnknownName):
            manager.control.heartbeat("w0")


async def test_a_lease_that_ends_while_its_instance_is_replaced_is_not_forgotten() -> None:
    async with held("stays") as (manager, fleet):
        plane = manager.control
        plane.register_leased(instance("leased"), 60.0)
        await manager.submit_request(request("r", pin="leased"))
        old = fleet["leased"]
        old.wait_for("r")
        plane.register_leased(instance("other"), 60.0)
        changing = asyncio.ensure_future(manager.replace_instance(instance("leased")))
        await until(lambda: "leased" in plane._members._changing)
        for name in ("leased", "other"):
            plane._members._leases.grant(name, 1e-9)
        plane._members.end_leases()
        assert "other" not in plane.instances, "one that cannot leave yet keeps nobody else"
        old.end("r")
        await asyncio.wait_for(changing, 10.0)
        await until(lambda: "leased" not in plane.instances)
