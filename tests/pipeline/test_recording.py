"""What a live run leaves: whole, cut off, or not a recording."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_llm_ops.pipeline.recording import FORMAT, Recorder, Recording
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.events import (
    Arrive,
    Cancel,
    ConfigSet,
    Event,
    NodeDone,
    Timer,
    WorkerDown,
    WorkerUp,
)
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId

EVENTS: list[Event] = [
    WorkerUp(seq=1, now=0.1, worker=WorkerId("w"), model="m", slots=1, max_model_len=9),
    Arrive(seq=2, now=0.1 + 0.2, request=make_request("a", timeout_s=1.5, blocks=(1, 2))),
    WorkerDown(seq=3, now=1e-9, worker=WorkerId("w"), reason="r", lost={7: 2, 3: 0}),
    NodeDone(seq=4, now=1.0, node=NodeId(7), finish_reason="stop", n_tokens=2),
    Cancel(seq=5, now=2.0, request=RequestId("ünï")),
    ConfigSet(seq=6, now=2.0, operator="admit", option="max_pending", value=3),
    Timer(seq=7, now=2.0, kind="deadline", key="a"),
]


def written(path: Path, footer: bool = True) -> Path:
    recorder = Recorder(path, "[pipeline]")
    for event in EVENTS:
        recorder(event)
    if footer:
        recorder.close("abc", 3)
    else:
        recorder._file.close()
    return path


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    recording = Recording(written(tmp_path / "r"))
    assert recording.header.pipeline == "[pipeline]"
    assert list(recording.events()) == EVENTS
    assert recording.footer is not None
    assert (recording.footer.digest, recording.footer.decisions) == ("abc", 3)


def test_a_run_that_was_killed_ends_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = written(tmp_path / "r", footer=False)
    path.write_bytes(path.read_bytes()[:-5])
    recording = Recording(path)
    assert list(recording.events()) == EVENTS[:-1]
    assert recording.footer is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "does not begin with a recording's header"),
        (b'{"type":"Timer","kind":"a","key":"b"}\n', "does not begin"),
        (b"\x00\xff nonsense\n", ":1: not a line of a recording"),
        (
            b'{"type":"Header","format":99,"pipeline":""}\n',
            f"format 99, this version reads {FORMAT}",
        ),
        (b'{"type":"Header","pipeline":""}\n', "missing required field `format`"),
    ],
)
def test_not_a_recording(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / "r").write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        Recording(tmp_path / "r")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"type":"Meteor"}\n', "Invalid value 'Meteor'"),
        (b'{"type":"Cancel"}\n', "missing required field `request`"),
        (b'{"type":"Arrive","request":{"id":"a"}}\n', "missing required field `model`"),
        (b'{"type":"Header","format":1,"pipeline":""}\n', "a second header"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    path = written(tmp_path / "r")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*whole[:3], line, *whole[3:]]))
    with pytest.raises(ConfigError) as caught:
        list(Recording(path).events())
    assert said in str(caught.value)
    assert f"{path}:4" in str(caught.value)


def test_a_full_disk_ends_the_recording_only(caplog: pytest.LogCaptureFixture) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    recorder = Recorder("/dev/full", "x")
    for _ in range(2000):
        recorder(EVENTS[0])
    recorder.close("abc", 1)
    assert "the recording ends before event 1" in caplog.text
