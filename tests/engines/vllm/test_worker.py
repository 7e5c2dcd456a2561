"""Both cores in a worker process: the same tokens, and nothing left when it is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sage_llm_ops.engines.base import Worker
from sage_llm_ops.engines.registry import make_worker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Done, Failed, Tokens

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

CORES = ("inproc", "async")


def node(number: int, n: int = 24, first: int = 40) -> PlanNode:
    return PlanNode(
        NodeId(number),
        RequestId("r"),
        "w",
        1,
        tokens=pack([first, 50, 60]),
        n_tokens=3,
        sampling=SamplingParams(max_tokens=n, temperature=0.0),
    )


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[RecordingUplink, list[Worker]]]:
    uplink = RecordingUplink()
    logs: Path = tmp_path_factory.mktemp("logs")
    workers = [
        make_worker(
            ExecutionInstance(
                core,
                model_name="tiny",
                options={"model": str(tiny_model()), "max_model_len": 512, "core": core},
            ),
            uplink,
            log=logs / f"{core}.log",
        )
        for core in CORES
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        uplink.wait_up(worker.id, timeout_s=180)
    yield uplink, workers
    for worker in workers:
        worker.stop(30)


def test_both_cores_tell_the_same(fleet: tuple[RecordingUplink, list[Worker]]) -> None:
    uplink, workers = fleet
    for base, worker in enumerate(workers):
        for k in range(6):
            assert worker.submit(node(100 * base + k + 1, first=40 + k))
    for k in range(1, 7):
        ends = [uplink.wait_end(100 * base + k, timeout_s=60) for base in range(2)]
        assert all(isinstance(end, Done) and end.finish_reason == "length" for end in ends)
        assert uplink.ids(k) == uplink.ids(100 + k)
        assert len(uplink.ids(k)) == 24


@pytest.mark.parametrize("number", range(len(CORES)), ids=CORES)
def test_cancel_and_refusals(fleet: tuple[RecordingUplink, list[Worker]], number: int) -> None:
    uplink, worker = fleet[0], fleet[1][number]
    base = 1000 * (number + 1)
    assert any(_cancelled_in_the_middle(uplink, worker, base + 10 + k) for k in range(20))
    worker.submit(node(base + 1, 400))
    worker.cancel(NodeId(base + 1))  # before its task has begun
    worker.submit(node(base + 2, first=999999))
    bad = node(base + 3)
    bad.sampling = SamplingParams(temperature=-1.0)
    worker.submit(bad)
    worker.submit(node(base + 4))
    assert isinstance(uplink.wait_end(base + 1), Done)
    for refused in (base + 2, base + 3):
        failed = uplink.wait_end(refused)
        assert isinstance(failed, Failed) and failed.code == "invalid_request"
    assert uplink.wait_end(base + 4) == Done(NodeId(base + 4), "length", 3, 24)
    assert worker.drain(10)  # type: ignore[attr-defined]
    assert all(len(uplink.ends(base + k)) == 1 for k in range(1, 5))


def _cancelled_in_the_middle(uplink: RecordingUplink, worker: Worker, identity: int) -> bool:
    """False where the engine, which does not wait for us, had made all of it: that may be."""
    worker.submit(node(identity, 400))
    uplink.wait(lambda up: any(isinstance(event, Tokens) for event in up.events(identity)))
    worker.cancel(NodeId(identity))
    done = uplink.wait_end(identity)
    assert isinstance(done, Done) and done.n_tokens == len(uplink.ids(identity))
    assert len(uplink.ends(identity)) == 1
    if done.finish_reason == "length":
        assert done.n_tokens == 400
        return False
    assert done.finish_reason == "cancelled" and done.n_tokens < 400
    return True


@pytest.mark.parametrize("number", range(len(CORES)), ids=CORES)
def test_kill_leaves_nothing(fleet: tuple[RecordingUplink, list[Worker]], number: int) -> None:
    """The last test: it ends the workers."""
    uplink, worker = fleet[0], fleet[1][number]
    head = psutil.Process(worker.describe()["pid"])
    family = [head, *head.children(recursive=True)]
    assert (len(family) > 1) == (CORES[number] == "async")
    worker.submit(node(5000 + number, 400))
    uplink.wait(lambda up: up.events(5000 + number))
    made = {path for each in family for path in _left_behind(each)}
    assert any("sllo-tmp-" in path for path in made), made  # and now and then a psm_ segment
    os.kill(head.pid, signal.SIGKILL)
    assert "killed by SIGKILL" in uplink.wait_down(worker.id)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not [path for path in made if os.path.exists(path)]


def _left_behind(process: psutil.Process) -> set[str]:
    """Shared memory that it maps, and its temporary folder."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    mapped = {line.split()[-1] for line in lines if "/dev/shm/psm_" in line}
    folder = process.environ().get("TMPDIR", "")
    return mapped | ({folder} if "sllo-tmp-" in folder else set())
