"""Hands: what the graph decides reaches a worker, and what workers say reaches the source, once."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from sage_llm_ops.pipeline.entering import prefix_cache
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.hands import LiveHands
from sage_llm_ops.pipeline.live_source import LiveSource
from sage_llm_ops.testing import ManualClock, ManualWorker
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.events import (
    Event,
    FirstToken,
    Job,
    KvBatch,
    NodeDone,
    NodeFailed,
    Outcome,
    WorkerDown,
    WorkerLeave,
    WorkerUp,
)
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.kv import KvRemoved
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import CacheChanged, Done, Tokens


class Table:
    """Hands without a graph: the test reads what was posted."""

    def __init__(self) -> None:
        self.source = LiveSource(ManualClock())
        self.ended = 0
        self.hands = LiveHands(self.source, self._ended)
        self.worker = self.add(ManualWorker("w0", self.hands))
        self.count = 0

    def _ended(self) -> None:
        self.ended += 1

    def add(self, worker: Any) -> Any:
        self.hands.workers[worker.id] = worker
        worker.start()
        self.posted()
        return worker

    def posted(self) -> list[Event]:
        out = []
        while self.source.backlog():
            out.append(self.source())
        return out

    def handle(self, identity: str = "a") -> tuple[RequestHandle, Job]:
        handle = RequestHandle(make_request(identity))
        self.hands.handles[handle.request.id] = handle
        return handle, Job(handle.request, 1)

    def execute(self, job: Job, offset: int = 0, worker: str = "w0") -> PlanNode:
        self.count += 1
        node = PlanNode(NodeId(self.count), job.request.id, worker, 1, n_tokens=4, offset=offset)
        self.hands.execute(node, job)
        return node


@pytest.fixture
def table() -> Table:
    return Table()


def test_tokens_go_to_the_stream_and_the_end_to_the_source(table: Table) -> None:
    handle, job = table.handle()
    node = table.execute(job)
    table.worker.tokens(node, 5, 6, cached=2)
    table.worker.done(node, 7, 8)
    first, done = table.posted()
    assert handle.tokens == [5, 6, 7, 8]
    assert isinstance(first, FirstToken) and first.cached == 2
    assert isinstance(done, NodeDone) and done.n_tokens == 4


def test_a_continued_attempt_gets_the_delivered_tokens(table: Table) -> None:
    handle, job = table.handle()
    handle.push(0, [5, 6])
    table.execute(job, offset=2)
    (node,) = table.worker.taken
    assert np.frombuffer(node.tokens, "<i4").tolist() == [1, 2, 3, 4, 5, 6]
    assert node.sampling.max_tokens == 2


def test_no_handle(table: Table) -> None:
    table.execute(Job(make_request("nobody"), 1))
    (failed,) = table.posted()
    assert isinstance(failed, NodeFailed) and failed.reason == "engine_failed"


def test_a_worker_that_is_down_or_unknown(table: Table) -> None:
    _, job = table.handle()
    table.worker.alive = False
    table.execute(job)
    table.execute(job, worker="never heard of")
    reasons = [event.reason for event in table.posted()]
    assert reasons == ["worker_lost", "worker_lost"]


def test_what_cannot_be_composed_is_told(table: Table) -> None:
    """Regression: nobody was told, and the request waited for ever with its reservation."""
    _, job = table.handle()
    table.execute(job, offset=3)
    (failed,) = table.posted()
    assert isinstance(failed, NodeFailed)
    assert "0 tokens came, 3 are counted" in failed.message
    assert table.hands.running_on(WorkerId("w0")) == 0


class Raises(ManualWorker):
    def submit(self, node: PlanNode) -> bool:
        raise OSError("no socket")


def test_a_worker_whose_submit_raises(table: Table) -> None:
    table.add(Raises("w1", table.hands))
    _, job = table.handle()
    table.execute(job, worker="w1")
    (failed,) = table.posted()
    assert isinstance(failed, NodeFailed) and "no socket" in failed.message


@pytest.mark.parametrize(
    ("say", "said"),
    [
        (lambda node: Tokens(node.id, 3, [1]), "token 3 came where 0 was due"),
        (lambda node: Done(node.id, "stop", 4, 9), "it says it made 9 tokens, 0 came"),
        (lambda node: Done(node.id, "stop", 4, 0, 0, 5), "object is not iterable"),
    ],
)
def test_a_stream_that_makes_no_sense_fails_the_node_and_stops_the_engine(
    table: Table, say: Any, said: str
) -> None:
    _, job = table.handle()
    node = table.execute(job)
    table.worker.report(say(node), say(node))
    (failed,) = table.posted()
    assert isinstance(failed, NodeFailed)
    assert said in failed.message
    assert table.worker.cancelled == [node.id]
    assert table.hands.stale == 1


def test_ends_are_reported_once(table: Table) -> None:
    _, job = table.handle()
    node = table.execute(job)
    table.worker.done(node, 1)
    table.worker.report(Done(node.id, "stop", 4, 1))
    table.worker.kill()
    assert [type(event) for event in table.posted()] == [FirstToken, NodeDone, WorkerDown]
    assert table.hands.stale == 1


def test_one_workers_words_about_anothers_node_do_not_count(table: Table) -> None:
    other = table.add(ManualWorker("w1", table.hands))
    handle, job = table.handle()
    node = table.execute(job)
    other.report(Tokens(node.id, 0, [1]))
    assert handle.tokens == []
    assert table.hands.stale == 1


def test_death_names_the_nodes_and_what_they_brought(table: Table) -> None:
    nodes = []
    for name in ("a", "b"):
        _, job = table.handle(name)
        nodes.append(table.execute(job))
    table.worker.tokens(nodes[0], 1, 2, 3)
    table.worker.kill()
    down = table.posted()[-1]
    assert isinstance(down, WorkerDown)
    assert down.lost == {1: 3, 2: 0}
    table.worker.report(Tokens(nodes[0].id, 3, [4]))
    assert table.posted() == []


def test_up_of_a_worker_that_left(table: Table) -> None:
    table.hands.leave(table.worker.id, "test")
    table.worker.start()
    assert [type(event) for event in table.posted()] == [WorkerLeave]


def test_slots_are_what_the_instance_says_or_the_engine(table: Table) -> None:
    for slots, expected in ((3, 3), (None, 9)):
        worker = ManualWorker("w1", table.hands, slots=slots)
        table.hands.workers[worker.id] = worker
        worker.start()
        (up,) = table.posted()
        assert isinstance(up, WorkerUp) and up.slots == expected


class LeavesMeanwhile(ManualWorker):
    """Is detached while a node is handed over."""

    def submit(self, node: PlanNode) -> bool:
        hands: Any = self._uplink
        routes, hands._routes = hands._routes, {}  # `leave` looked before the route was there
        hands.leave(self.id, "scaled down")
        hands._routes = routes
        return super().submit(node)


def test_a_node_that_is_handed_over_while_its_worker_leaves(table: Table) -> None:
    """Regression: it was on a worker nobody listens to, and never ended."""
    table.add(LeavesMeanwhile("w1", table.hands))
    _, job = table.handle()
    table.execute(job, worker="w1")
    left, failed = table.posted()
    assert isinstance(left, WorkerLeave) and left.lost == {}
    assert isinstance(failed, NodeFailed) and failed.reason == "worker_lost"


def test_leaving_counts_tokens_between_two_reports_not_within_one(table: Table) -> None:
    """Regression: a retry could begin before the tokens that the caller had seen already."""
    handle, job = table.handle()
    node = table.execute(job)
    inside, go = threading.Event(), threading.Event()

    def slow_reader() -> None:
        inside.set()
        go.wait(5.0)

    handle.subscribe(slow_reader)
    reporter = threading.Thread(target=table.worker.tokens, args=(node, 1, 2))
    reporter.start()
    assert inside.wait(5.0)
    leaver = threading.Thread(target=table.hands.leave, args=(table.worker.id, "scaled down"))
    leaver.start()
    leaver.join(0.05)
    go.set()
    leaver.join(5.0)
    reporter.join(5.0)
    left = next(event for event in table.posted() if isinstance(event, WorkerLeave))
    assert left.lost == {1: len(handle.tokens)}


def test_only_the_request_that_ended_is_told(table: Table) -> None:
    handle, job = table.handle()
    table.hands.deliver(Outcome(1, 0.0, Job(make_request("a"), 2), code="duplicate_request"))
    assert not handle.done()
    table.hands.deliver(Outcome(1, 0.0, job))
    table.hands.deliver(Outcome(1, 0.0, job))
    assert handle.done()
    assert table.ended == 1
    assert table.hands.handles == {}


def test_waiting_until_a_worker_is_empty(table: Table) -> None:
    _, job = table.handle()
    node = table.execute(job)
    assert not table.hands.wait_empty(table.worker.id, 0.01)
    threading.Timer(0.02, table.worker.done, (node, 1)).start()
    assert table.hands.wait_empty(table.worker.id, 5.0)


def test_what_becomes_of_a_cache_enters_by_the_source(table: Table) -> None:
    gone = KvRemoved(b"8 bytes.")
    table.hands.on_cache(WorkerId("w0"), 3, CacheChanged(7, [gone]))
    (batch,) = table.posted()
    assert isinstance(batch, KvBatch)
    said = (batch.worker, batch.incarnation, batch.number, batch.count, batch.changes)
    assert said == ("w0", 3, 7, 1, [gone])
    assert not (batch.more or batch.reset)


@pytest.mark.parametrize(("tells", "address"), [(True, ""), (False, "ipc:///x"), (False, "")])
def test_a_worker_reports_its_cache_in_frames_or_at_an_address(tells: bool, address: str) -> None:
    can = Capabilities(prefix_cache=True, block_size=16, tells_cache=tells, kv_events=address)
    cache = prefix_cache(can)
    assert cache is not None
    assert cache.reports == bool(tells or address)
