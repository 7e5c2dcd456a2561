"""What the process tests share."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops.engines.hub import Hub
from sage_llm_ops.engines.process import ProcessWorker
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.testing.echo_engine import ECHO
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams

MakeWorker = Callable[..., ProcessWorker]


@pytest.fixture
def uplink() -> RecordingUplink:
    return RecordingUplink()


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's sockets are: nothing may be left in it."""
    directory = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    return directory


@pytest.fixture
def make(uplink: RecordingUplink, runtime: Path) -> Iterator[MakeWorker]:
    """Builds workers over the echo engine, and ends those that a test left running."""
    made: list[ProcessWorker] = []

    def build(
        name: str = "w", *, options: dict[str, Any] | None = None, **more: Any
    ) -> ProcessWorker:
        instance = ExecutionInstance(name, model_name=more.pop("model_name", ""))
        worker = ProcessWorker(
            instance, uplink, **{"engine": ECHO, "options": options or {}, **more}
        )
        made.append(worker)
        return worker

    yield build
    for worker in made:
        worker.stop(5.0)
    assert Hub.shared().join(5.0), "the hub's thread was left"
    assert list(runtime.iterdir()) == [], "a socket directory was left"


def node(number: int, n: int = 4, *, prompt: tuple[int, ...] = (5, 6), offset: int = 0) -> PlanNode:
    """A plan's node for the worker `w`."""
    return PlanNode(
        NodeId(number),
        RequestId(f"r{number}"),
        "w",
        1,
        tokens=pack(prompt),
        n_tokens=len(prompt),
        offset=offset,
        sampling=SamplingParams(max_tokens=n),
    )


def gone(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether the process ends in time; a zombie that nobody reaps counts as ended."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        os.sched_yield()
        time.sleep(0.005)  # a grandchild of a stranger: there is no event to wait for
    return False
