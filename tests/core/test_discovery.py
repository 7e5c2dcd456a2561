"""The services file is read again, and the fleet becomes what it says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sage_llm_ops import ControlPlaneManager
from sage_llm_ops.types.errors import ConfigError
from tests.core.fleets import instance, until

SERVICE = """\
[services.llm]
type = "ControlPlaneVLLMService"
{settings}
"""
INSTANCE = """
[[services.llm.instances]]
instance_id = "{name}"
engine = "sim"
model_name = "m"
options = {{ speed = {speed} }}
"""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "sage_llm_ops.discovery")


def write(path: Path, settings: str = "", **speeds: float) -> Path:
    parts = [SERVICE.format(settings=settings)]
    parts += [INSTANCE.format(name=name, speed=speed) for name, speed in speeds.items()]
    new = path.with_suffix(".new")
    new.write_text("".join(parts))
    new.replace(path)
    return path


async def test_added_removed_changed_and_kept(tmp_path: Path) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0, w1=1000.0, w2=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        kept, changed = (manager.executor.worker(name) for name in ("w0", "w1"))
        write(file, w0=1000.0, w1=2000.0, w3=1000.0)
        report = await manager.reload()
        assert (report.added, report.removed, report.replaced, report.kept) == (
            ("w3",),
            ("w2",),
            ("w1",),
            ("w0",),
        )
        assert str(report) == "added: w3; removed: w2; replaced: w1; kept: w0"
        assert set(manager.executor.instances) == {"w0", "w1", "w3"}
        assert manager.executor.worker("w0") is kept
        assert manager.executor.worker("w1") is not changed
        again = await manager.reload()
        assert (again.kept, again.added, again.replaced) == (("w0", "w1", "w3"), (), ())
        assert (await manager.process_request("Hello", {"max_tokens": 1}, pin="w3")).text


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('engine = "sim"', 'engine = "sum"', r"services.toml:5: .*'sum'.*did you mean 'sim'"),
        ("speed", "sped", r"services.toml:5: .*'sped'.*did you mean 'speed'"),
        ("instance_id", "instnce_id", r"services.toml:6: .*did you mean 'instance_id'"),
        ("[[", "[", r"services.toml:\d+: not TOML"),
    ],
)
async def test_a_file_that_cannot_be_obeyed_changes_nothing(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        before = manager.executor.worker("w0")
        write(file, w9=1000.0)
        file.write_text(file.read_text().replace(old, new))
        report = await manager.reload()
        assert isinstance(report.error, ConfigError)
        with pytest.raises(ConfigError, match=said):
            raise report.error
        assert list(manager.executor.instances) == ["w0"]
        assert manager.executor.worker("w0") is before
        file.unlink()
        assert "cannot be read" in str((await manager.reload()).error)
        write(file, w0=1000.0)
        assert (await manager.reload()).kept == ("w0",)


async def test_what_only_a_new_plane_obeys_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        write(file, 'scheduling_policy = "priority"', w0=1000.0)
        assert (await manager.reload()).needs_restart == ("scheduling_policy",)


async def test_instances_that_came_by_another_door_are_left_alone(tmp_path: Path) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        manager.register_instance(instance("mine", model="m", options={"speed": 1000.0}))
        await manager.unregister_instance("w0")
        write(file, w1=1000.0, mine=1000.0)
        report = await manager.reload()
        assert (report.added, report.removed) == (("w1",), ("w0",))
        ((name, why),) = report.failed
        assert name == "mine" and "registered already" in why
        assert set(manager.executor.instances) == {"mine", "w1"}


async def test_what_was_taken_out_by_hand_comes_back_with_a_reload(tmp_path: Path) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0, w1=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        await manager.unregister_instance("w0")
        assert (await manager.reload()).added == ("w0",)


async def test_the_file_is_watched_where_that_is_wanted(tmp_path: Path) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0)
    manager = ControlPlaneManager.from_config(file)
    discovery = manager.control.discovery
    assert discovery is not None
    async with manager:
        assert discovery.poll() is None
        write(file, w0=1000.0, w1=1000.0)
        report = discovery.poll()
        assert report is not None and report.added == ("w1",)
        assert discovery.poll() is None


async def test_a_watched_file_needs_no_reload(tmp_path: Path) -> None:
    from sage_llm_ops.config import load_services

    file = write(tmp_path / "services.toml", w0=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        manager.control.follow(load_services(file).service(), poll_s=0.01)
        write(file, w0=1000.0, w1=1000.0)
        await until(lambda: "w1" in manager.executor.instances)


async def test_a_plane_without_a_file_says_so() -> None:
    manager = ControlPlaneManager()
    with pytest.raises(ConfigError, match="not built from a file"):
        await manager.reload()
    await manager.stop()


async def test_what_could_not_be_replaced_is_tried_again(tmp_path: Path) -> None:
    file = write(tmp_path / "services.toml", w0=1000.0)
    async with ControlPlaneManager.from_config(file) as manager:
        write(file, w0=2000.0)
        with manager.control._members._change("w0"):  # somebody rolls the fleet just now
            report = await manager.reload()
        assert [identity for identity, _ in report.failed] == ["w0"]
        assert (await manager.reload()).replaced == ("w0",)
