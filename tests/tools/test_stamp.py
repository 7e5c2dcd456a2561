import json

import pytest
import stamp
from builds import BUILDS


@pytest.fixture
def root(tmp_path):
    """A checkout with an environment in it, without a stamp."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "pyproject.toml").write_text("[project]")
    for build in BUILDS.values():
        (tmp_path / build.lock).write_text("numpy==2.0.0\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    return tmp_path


def finish(root, build="cpu", env=None, note=""):
    env = env or {}
    asked = env.get("PYTHON", "")
    key = stamp.key(root, build, env, asked)
    done = stamp.Stamp(key, build, "3.11.7", str(root), asked, note)
    stamp.write(root / ".venv", done)
    return done


def current(root, **env):
    return stamp.current(root, root / ".venv", env)


def test_a_finished_install_is_current(root):
    done = finish(root)
    assert current(root) == done
    assert sorted(path.name for path in (root / ".venv").iterdir()) == ["bin", stamp.NAME]


def test_without_a_stamp_nothing_is(root):
    assert current(root) is None
    finish(root)
    stamp.remove(root / ".venv")
    stamp.remove(root / ".venv")
    assert current(root) is None


@pytest.mark.parametrize("name", ["pyproject.toml", "locks/cpu.txt"])
def test_a_changed_file_asks_for_an_install(root, name):
    finish(root)
    (root / name).write_text("changed")
    assert current(root) is None


def test_another_builds_lock_does_not_matter(root):
    finish(root)
    (root / "locks" / "cuda.txt").write_text("changed")
    assert current(root) is not None


def test_a_chosen_build_holds_as_long_as_it_is_chosen(root):
    finish(root, "sim", {"SAGE_LLM_OPS_BUILD": "sim"})
    assert current(root, SAGE_LLM_OPS_BUILD="sim") is not None
    assert current(root) is None
    assert current(root, SAGE_LLM_OPS_BUILD="cpu") is None


def test_a_named_python_stays_until_another_is_named(root):
    finish(root, env={"PYTHON": "python3.12"})
    assert current(root) is not None
    assert current(root, PYTHON="python3.12") is not None
    assert current(root, PYTHON="python3.13") is None


def test_a_python_that_is_gone_asks_for_an_install(root):
    finish(root)
    (root / ".venv" / "bin" / "python").unlink()
    assert current(root) is None


def test_a_moved_checkout_asks_for_an_install(root, tmp_path_factory):
    finish(root)
    moved = tmp_path_factory.mktemp("moved") / "checkout"
    root.rename(moved)
    assert current(moved) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', json.dumps({"build": "cpu"})])
def test_a_stamp_that_cannot_be_read_is_none(root, text):
    (root / ".venv" / stamp.NAME).write_text(text)
    assert current(root) is None
