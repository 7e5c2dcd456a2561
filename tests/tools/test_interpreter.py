import os
import sys

import interpreter
import pytest
from interpreter import Interpreter


def fake(folder, name, version, missing="[]"):
    """A program that answers the probe as a Python of that version would."""
    path = folder / name
    major, minor, micro = version
    path.write_text(f"#!/bin/sh\necho '[\"{path}\", [{major}, {minor}, {micro}], {missing}]'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ((3, 8, 1), False),
        ((3, 10, 9), False),
        ((3, 11, 0), True),
        ((3, 13, 2), True),
        ((3, 14, 0), False),
    ],
)
def test_the_range(version, fits):
    assert Interpreter("python3", "/p", version).in_range is fits


def test_the_probe_tells_the_truth():
    found = interpreter.probe(sys.executable)
    assert found.version == sys.version_info[:3]
    assert found.usable


def test_a_shim_without_a_version_behind_it_is_not_an_interpreter(tmp_path):
    shim = tmp_path / "python3.12"
    shim.write_text("#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert interpreter.probe(str(shim)) is None
    assert interpreter.probe(str(tmp_path / "absent")) is None


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Only what the test puts there is on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_python3_goes_before_a_newer_one(on_path):
    fake(on_path, "python3", (3, 11, 2))
    fake(on_path, "python3.13", (3, 13, 0))
    assert interpreter.find({})[0].version == (3, 11, 2)


def test_else_the_newest_that_can_make_an_environment(on_path):
    fake(on_path, "python3", (3, 9, 0))
    fake(on_path, "python3.13", (3, 13, 0), '["ensurepip"]')
    fake(on_path, "python3.12", (3, 12, 1))
    fake(on_path, "python3.11", (3, 11, 1))
    found, seen = interpreter.find({})
    assert found.version == (3, 12, 1)
    assert [one.version[1] for one in seen] == [9, 13, 12]


def test_what_the_user_names_is_not_replaced_by_another(on_path):
    fake(on_path, "python3", (3, 11, 2))
    old = fake(on_path, "old", (3, 9, 0))
    found, seen = interpreter.find({"PYTHON": old})
    assert found is None
    assert [one.version for one in seen] == [(3, 9, 0)]


def test_the_environment_that_is_there_keeps_its_python(on_path):
    fake(on_path, "python3", (3, 12, 0))
    present = fake(on_path, "present", (3, 11, 5))
    assert interpreter.find({}, present)[0].version == (3, 11, 5)
    os.remove(present)
    assert interpreter.find({}, present)[0].version == (3, 12, 0)
