"""What a worker process tells of its prefix cache: all of it, in order, with its steps' frames."""

from __future__ import annotations

from sage_llm_ops.engines.kv_events.frames import MAX_BLOCKS
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.kv import KvRemoved
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import CacheChanged

from .conftest import MakeWorker


def node(number: int, n: int) -> PlanNode:
    return PlanNode(
        NodeId(number),
        RequestId("r"),
        "w",
        1,
        tokens=pack((5, 6)),
        n_tokens=2,
        sampling=SamplingParams(max_tokens=n),
    )


def said(uplink: RecordingUplink, incarnation: int = 1) -> list[CacheChanged]:
    return [entry[3] for entry in uplink.log if entry[0] == "cache" and entry[2] == incarnation]


def names(found: list[CacheChanged]) -> list[int]:
    """Of the blocks; asserts that no message is missing."""
    assert [one.number for one in found] == list(range(len(found)))
    changes = [change for one in found for change in one.changes]
    assert all(isinstance(change, KvRemoved) for change in changes)
    return [int.from_bytes(change.hashes, "little") for change in changes]  # type: ignore[union-attr]


def started(make: MakeWorker, uplink: RecordingUplink, **options: float) -> ProcessWorker:
    worker = make(options=options)
    worker.start()
    assert uplink.wait_up("w").capabilities.tells_cache == bool(options.get("evicts"))
    return worker


def test_all_of_it_is_there_when_the_worker_is_idle(
    make: MakeWorker, uplink: RecordingUplink
) -> None:
    worker = started(make, uplink, evicts=2, step_s=0.001)
    worker.submit(node(1, 200))
    assert worker.drain(20.0)
    found = names(said(uplink))
    assert found == list(range(len(found))) and len(found) >= 400
    assert len(said(uplink)) < 200, "a message for every step costs the plane a dispatch each"


def test_while_there_is_work_it_is_told_now_and_then(
    make: MakeWorker, uplink: RecordingUplink
) -> None:
    worker = started(make, uplink, evicts=1, step_s=0.001)
    worker.submit(node(1, 1_000_000))
    uplink.wait(lambda up: len(said(up)) > 5)
    assert not uplink.ends(1)


def test_what_ended_a_request_is_told_before_its_end(
    make: MakeWorker, uplink: RecordingUplink
) -> None:
    worker = started(make, uplink, evicts=1)
    worker.submit(node(1, 3))
    uplink.wait_end(1)
    kinds = [entry[0] for entry in uplink.log]
    last = len(kinds) - 1 - kinds[::-1].index("cache")
    assert last < uplink.log.index(("event", "w", 1, uplink.ends(1)[0]))


def test_many_blocks_come_in_portions(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = started(make, uplink, evicts=2 * MAX_BLOCKS + 1)
    worker.submit(node(1, 1))
    assert worker.drain(20.0)
    found = said(uplink)
    assert names(found)[-1] >= 2 * MAX_BLOCKS
    assert max(len(one.changes) for one in found) <= MAX_BLOCKS


def test_killed_in_the_middle_nothing_is_missing_before_its_end(
    make: MakeWorker, uplink: RecordingUplink
) -> None:
    worker = started(make, uplink, evicts=3, step_s=0.001)
    for life in (1, 2):
        worker.submit(node(life, 1_000_000))
        uplink.wait(lambda up, life=life: len(said(up, life)) > 3)  # type: ignore[misc]
        worker.kill("for a test")
        uplink.wait_down("w", life)
        found = names(said(uplink, life))
        assert found == list(range(len(found))), "the next start counts from 0 again"
        if life == 1:
            worker.start()
            uplink.wait_up("w", 2)


def test_an_engine_that_has_nothing_to_tell_is_not_asked(
    make: MakeWorker, uplink: RecordingUplink
) -> None:
    worker = started(make, uplink)
    worker.submit(node(1, 20))
    assert worker.drain(20.0)
    assert said(uplink) == []
