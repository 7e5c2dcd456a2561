"""A worker process at work, and its plane's side, over an engine without a model."""

import threading
import time
from pathlib import Path

from sage_llm_ops.engines.base import Sign
from sage_llm_ops.testing.echo_engine import echo_token
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.wire import Accepted, Done, Failed, Tokens

from .conftest import MakeWorker, node


def test_a_request_from_start_to_end(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()
    began = time.monotonic()
    worker.start()
    assert time.monotonic() - began < 0.5, "start() waits"
    hello = uplink.wait_up("w")
    assert hello.engine == "echo" and hello.pid == worker.describe()["pid"]
    assert worker.submit(node(1, offset=10))
    assert uplink.wait_end(1) == Done(NodeId(1), "length", 2, 4)
    assert uplink.ids(1) == [echo_token(5, 2 + k) for k in range(4)]
    kinds = [type(event) for event in uplink.events(1)]
    assert kinds == [Accepted, Tokens, Tokens, Tokens, Tokens, Done]
    assert uplink.events(1)[1].offset == 10
    worker.stop(5)
    assert [entry[0] for entry in uplink.log].count("down") == 0
    assert not worker.submit(node(2))


def test_many_start_in_parallel_on_one_thread(make: MakeWorker, uplink: RecordingUplink) -> None:
    workers = [make(f"w{k}", options={"start_s": 0.3}) for k in range(8)]
    began = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        uplink.wait_up(worker.id)
    assert time.monotonic() - began < 8 * 0.3 + 2, "they started one after the other"
    hubs = [thread for thread in threading.enumerate() if thread.name == "worker-hub"]
    assert len(hubs) == 1


def test_cancel_is_answered_once(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"step_s": 0.002})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1, 100000))
    uplink.wait(lambda up: len(up.ids(1)) > 3)
    worker.cancel(NodeId(1))
    worker.cancel(NodeId(1))
    worker.cancel(NodeId(99))
    done = uplink.wait_end(1)
    assert isinstance(done, Done) and done.finish_reason == "cancelled"
    assert done.n_tokens == len(uplink.ids(1))
    assert worker.drain(5)
    assert len(uplink.ends(1)) == 1


def test_submit_from_many_threads(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make()
    worker.start()
    uplink.wait_up("w")

    def work(base: int) -> None:
        for k in range(50):
            assert worker.submit(node(base + k))

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.drain(20)
    numbers = [1000 * t + k for t in range(1, 5) for k in range(50)]
    assert all(len(uplink.ids(n)) == 4 and len(uplink.ends(n)) == 1 for n in numbers)


def test_stats_ping_and_drain(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"step_s": 0.005})
    worker.start()
    uplink.wait_up("w")
    assert worker.last_pong is None
    worker.submit(node(1, 20))
    assert worker.probe() is Sign.ANSWERED, "nothing was asked before"
    assert worker.drain(10)
    assert uplink.ends(1), "drained before its node ended"
    assert worker.last_pong is not None
    uplink.wait(lambda up: up.stats and up.stats[-1].running == 0)
    assert any(stats.running == 1 for stats in uplink.stats)
    assert uplink.stats[-1].rss_mb > 0


def test_an_engine_that_survives_fails_its_nodes(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(options={"raise_at_step": 5, "survives": True})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1, 1000))
    failed = uplink.wait_end(1)
    assert isinstance(failed, Failed) and failed.code == "engine_failed"
    worker.submit(node(2))
    assert isinstance(uplink.wait_end(2), Done)


def test_garbage_from_the_plane_is_survived(
    make: MakeWorker, uplink: RecordingUplink, tmp_path: Path
) -> None:
    log = tmp_path / "sub" / "w.log"
    worker = make(log=log)
    worker.start()
    uplink.wait_up("w")
    child = worker._child
    assert child is not None
    with child._lock:
        child._down.send(b"\xff garbage")
    worker.submit(node(1))
    uplink.wait_end(1)
    assert "ignored: frame of 9 bytes from the plane" in log.read_text()


def test_the_simulated_engine_in_a_process(make: MakeWorker, uplink: RecordingUplink) -> None:
    worker = make(engine="sim", options={"timing": "instant"})
    worker.start()
    uplink.wait_up("w")
    worker.submit(node(1))
    done = uplink.wait_end(1)
    assert isinstance(done, Done) and len(uplink.ids(1)) == 4
