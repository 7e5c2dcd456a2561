"""The live driver, with workers that do what the test says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import (
    DeadlineExpired,
    DuplicateRequest,
    InvalidRequest,
    NoInstance,
    NotRunning,
    Overloaded,
    RequestCancelled,
    RequestFailed,
    UnknownName,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.requests import RequestStatus
from tests.pipeline.live_helpers import Make, add_inline, nothing_left, wait


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
    one.add("w0")  # whoever nobody could ever serve is told that, not that the queue is full
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
