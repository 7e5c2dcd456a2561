"""The service inside a user's SAGE pipeline, as SAGE makes it, calls it and ends it."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.runtime import BaseService, LocalEnvironment, StopSignal

from sage_llm_ops import ControlPlaneVLLMService
from sage_llm_ops.types.errors import NotRunning, PipelineError

NAME = "llm_control_plane"
ROOT = Path(__file__).parents[2]
CONFIG = {
    "instances": [
        {"instance_id": f"w{i}", "engine": "sim", "options": {"speed": 1000.0}} for i in range(2)
    ]
}


class Questions(SourceFunction):
    """Streams so many questions as fast as it is asked, and counts how often it was."""

    taken = 0
    count = 0

    def execute(self) -> Any:
        cls = type(self)
        if cls.taken == cls.count:
            return StopSignal("asked")
        cls.taken += 1
        return f"question {cls.taken}"


class ByService(MapFunction):
    """The way it is meant."""

    def execute(self, data: str) -> Any:
        answer = self.ctx.get_service(NAME).generate(data, max_tokens=3)
        return data, answer["finish_reason"]


class ByCall(MapFunction):
    """The way that re-enters the sources."""

    def execute(self, data: str) -> Any:
        return self.call_service(NAME, {"inputs": data, "max_tokens": 3})


class ByCallCaught(MapFunction):
    """The same by somebody who takes errors for values."""

    def execute(self, data: str) -> Any:
        try:
            return self.call_service(NAME, {"inputs": data, "max_tokens": 3})
        except PipelineError as error:
            return error


class Collect(SinkFunction):
    got: queue.Queue[Any] = queue.Queue()

    def execute(self, data: Any) -> None:
        Collect.got.put(data)


@pytest.fixture
def run() -> Any:
    """Submits a graph of one operator; what it runs in is closed afterwards, service included."""
    opened: list[tuple[LocalEnvironment, list[ControlPlaneVLLMService]]] = []

    def build(operator: type[MapFunction], count: int, *, batch: bool) -> Any:
        made: list[ControlPlaneVLLMService] = []

        class Known(ControlPlaneVLLMService):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                made.append(self)

        env = LocalEnvironment(f"user-{len(opened)}")
        opened.append((env, made))
        env.register_service(NAME, Known, CONFIG)
        source = type("Fresh", (Questions,), {"count": count, "taken": 0})
        env.from_source(source, delay=0.0).map(operator).sink(Collect)
        env.submit(autostop=batch)
        return source, made

    Collect.got = queue.Queue()
    yield build
    for env, made in opened:
        env.close()
        for service in made:
            service.stop()


def test_get_service_in_a_streaming_graph(run: Callable[..., Any]) -> None:
    _, made = run(ByService, 20, batch=False)
    answers = [Collect.got.get(timeout=20) for _ in range(20)]
    assert answers == [(f"question {n}", "length") for n in range(1, 21)]
    (service,) = made
    assert service.name == service.config.name == NAME
    assert service.manager.get_metrics().completed_requests == 20


def test_a_batch_run_stops_it(run: Callable[..., Any]) -> None:
    before = set(threading.enumerate())
    _, made = run(ByService, 5, batch=True)
    assert Collect.got.qsize() == 5
    with pytest.raises(NotRunning):
        made[0].generate("late")
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


def test_call_service_in_a_streaming_graph_is_refused_by_name(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="sage.runtime.pipeline_compiler"):
        source, _ = run(ByCall, 10_000, batch=False)
        for thread in threading.enumerate():
            if thread.name.startswith("sage-source-"):
                thread.join(20)
    (record,) = [r for r in caplog.records if r.exc_info]
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, PipelineError)
    assert f"write self.ctx.get_service({NAME!r}).process(payload)" in str(error)
    assert source.taken < 100, "it was told before SAGE ran out of stack"


def test_it_is_refused_in_a_batch_run_of_a_streaming_source_too(run: Callable[..., Any]) -> None:
    with pytest.raises(PipelineError, match="call_service"):
        run(ByCall, 50, batch=True)


def test_who_takes_errors_for_values_gets_one_each(run: Callable[..., Any]) -> None:
    """As often as they like: none of the calls gets as far as polling the sources deeper."""
    run(ByCallCaught, 2000, batch=False)
    got = [Collect.got.get(timeout=20) for _ in range(2000)]
    assert {type(one) for one in got} == {PipelineError}


def test_call_service_is_refused_after_get_service_as_well(run: Callable[..., Any]) -> None:
    class Both(ByCallCaught):
        def execute(self, data: str) -> Any:
            served = self.ctx.get_service(NAME).generate(data, max_tokens=1)
            return served["finish_reason"], type(super().execute(data))

    run(Both, 30, batch=False)
    got = [Collect.got.get(timeout=20) for _ in range(30)]
    assert got == [("length", PipelineError)] * 30


def test_another_service_of_the_same_graph_is_called_as_ever() -> None:
    class Upper(BaseService):
        def process(self, data: str) -> str:
            return data.upper()

    class Mixed(MapFunction):
        def execute(self, data: str) -> Any:
            self.ctx.get_service(NAME)
            return self.call_service("upper", data)

    Collect.got = queue.Queue()
    env = LocalEnvironment("user-other")
    env.register_service(NAME, ControlPlaneVLLMService, CONFIG)
    env.register_service("upper", Upper)
    env.from_source(type("One", (Questions,), {"count": 1, "taken": 0}), delay=0.0).map(Mixed).sink(
        Collect
    )
    env.submit(autostop=True)
    env.close()
    assert Collect.got.get(timeout=20) == "QUESTION 1"


def test_a_graph_that_has_nothing_to_poll_may_call_it() -> None:
    """`from_batch` with a key takes SAGE's other path, where `call_service` is sound."""

    class Key(MapFunction):
        def execute(self, data: str) -> str:
            return data

    Collect.got = queue.Queue()
    env = LocalEnvironment("user-batch")
    env.register_service(NAME, ControlPlaneVLLMService, CONFIG)
    env.from_batch(["a", "b"]).keyby(Key).map(ByCall).sink(Collect)
    env.submit(autostop=True)
    env.close()
    answers = [Collect.got.get_nowait() for _ in range(2)]
    assert [answer["finish_reason"] for answer in answers] == ["length", "length"]


def test_the_example_prints_what_it_says() -> None:
    path = ROOT / "examples" / "sage_pipeline.py"
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    docstring = path.read_text("utf-8").split('"""')[1]
    shown = [line[4:] for line in docstring.splitlines() if line.startswith("    [")]
    assert done.stdout.splitlines() == shown
