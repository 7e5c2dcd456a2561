"""Whoever reads a stream may be so many tokens behind, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage_llm_ops.config import dump_pipeline, load_pipeline
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import ConfigError, SlowReader, UnknownName
from sage_llm_ops.types.requests import RequestStatus
from tests.pipeline.live_helpers import Make, wait


def running(one: Any, name: str = "a") -> tuple[Any, RequestHandle]:
    """A worker that holds a request of a hundred tokens."""
    worker = one.add("w0")
    handle = one.pipeline.submit(make_request(name, max_tokens=100))
    wait(lambda: worker.held)
    return worker, handle


def say(worker: Any, count: int, name: str = "a") -> None:
    for token in range(count):
        worker.tokens(worker.node_of(name), token)


def test_a_reader_that_is_too_far_behind_ends_it_typed(live: Make, tmp_path: Path) -> None:
    one = live(max_unread_tokens=5, record=tmp_path / "r.jsonl")
    worker, handle = running(one)
    stream = handle.iter(5.0)
    say(worker, 1)
    got = next(stream)
    say(worker, 5)
    one.settled()
    assert worker.cancelled == [], "five behind is as far as it may be"
    say(worker, 3)
    wait(lambda: worker.cancelled)
    worker.done(worker.node_of("a"), reason="cancelled")
    with pytest.raises(SlowReader, match=r"6 tokens behind, max_unread_tokens=5; read faster") as e:
        for piece in stream:
            got += piece
    assert got == [0, 0, 1, 2, 3, 4, 0, 1, 2] == list(e.value.partial)
    assert handle.status is RequestStatus.FAILED
    assert len(worker.cancelled) == 1
    one.pipeline.stop(5.0)
    assert replay(Recording(tmp_path / "r.jsonl"), serving(max_unread_tokens=5)).checked().same


@pytest.mark.parametrize("how", ["nobody streams", "it left", "buffer", "off", "began late"])
def test_who_is_left_alone(live: Make, how: str, caplog: pytest.LogCaptureFixture) -> None:
    policy = "buffer" if how == "buffer" else "cancel"
    one = live(max_unread_tokens=0 if how == "off" else 5, slow_reader=policy)
    worker, handle = running(one)
    if how == "began late":
        say(worker, 50)
    stream = handle.iter(5.0)
    if how != "nobody streams":
        say(worker, 1)
        next(stream)
    if how == "it left":
        stream.close()  # type: ignore[attr-defined]
    say(worker, 3 if how == "began late" else 50)
    one.settled()
    assert worker.cancelled == []
    assert ("they are kept" in caplog.text) == (how == "buffer")
    worker.done(worker.node_of("a"))
    assert handle.result(5.0).finish_reason == "length"


def test_one_reader_that_follows_is_enough(live: Make) -> None:
    one = live(max_unread_tokens=5)
    worker, handle = running(one)
    slow, quick = handle.iter(5.0), handle.iter(5.0)
    say(worker, 1)
    next(slow)
    for _ in range(20):
        say(worker, 1)
        next(quick)
    one.settled()
    assert worker.cancelled == []


def test_the_settings_are_checked_and_survive_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_unread_tokens=-1 must be 0"):
        serving(max_unread_tokens=-1)
    with pytest.raises(UnknownName, match="did you mean 'buffer'"):
        serving(slow_reader="bufer")
    spec = serving(max_unread_tokens=7, slow_reader="buffer")
    (tmp_path / "p.toml").write_text(dump_pipeline(spec))
    assert load_pipeline(tmp_path / "p.toml") == spec
