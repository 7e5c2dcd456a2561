"""One clear error: what was expected, what was found, what to install."""

import importlib.metadata
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from sage_llm_ops.engines.lmdeploy import versions
from sage_llm_ops.testing.uplinks import RecordingUplink
from sage_llm_ops.types.errors import EngineStartError
from tests.engines.conftest import MakeWorker

REMEDY = r"needs LMDeploy >=0\.18,<0\.19, but .*: pip install 'sage-llm-ops\[lmdeploy\]'"


@pytest.mark.parametrize(
    ("version", "fits"),
    [("0.18.0", True), ("0.18.3", True), ("0.17.9", False), ("0.19.0", False), ("1.0", False)],
)
def test_version(version: str, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    if fits:
        assert versions.check_version() == version
        return
    with pytest.raises(EngineStartError, match=REMEDY) as refused:
        versions.check_version()
    assert f"{version} was found in {sys.prefix}" in str(refused.value)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EngineStartError, match=REMEDY) as refused:
        versions.check_version()
    assert f"it is not installed in {sys.prefix}" in str(refused.value)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **names: object) -> None:
    found = ModuleType(name)
    vars(found).update(names)
    monkeypatch.setitem(sys.modules, name, found)


def test_a_name_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "fake")
    with pytest.raises(EngineStartError, match=REMEDY) as refused:
        versions.check_names({"fake:Engine.start": ()}, "0.18.7")
    assert "in 0.18.7 fake:Engine.start is missing" in str(refused.value)


def test_a_parameter_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(model: str) -> None:
        pass

    module(monkeypatch, "fake", Engine=SimpleNamespace(start=start))
    wanted = {"fake:Engine.start": ("model", "config", "seed")}
    with pytest.raises(EngineStartError, match=r"fake:Engine.start takes no config, seed"):
        versions.check_names(wanted, "0.18.7")


def test_a_binary_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("libcublas.so.12: cannot open shared object file")
    module(monkeypatch, "lmdeploy.turbomind", is_available=lambda: False, _import_error=error)
    with pytest.raises(EngineStartError, match=r"does not load: libcublas.*backend='pytorch'"):
        versions.check_backend("turbomind", "0.18.0")


def release(folder: Path, version: str, archs: str) -> None:
    """A package that calls itself LMDeploy."""
    info, package = folder / f"lmdeploy-{version}.dist-info", folder / "lmdeploy"
    for each in (info, package):
        each.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lmdeploy\nVersion: {version}\n")
    (package / "__init__.py").touch()
    configuration = ", ".join(versions.SHARED["lmdeploy.messages:GenerationConfig"])
    (package / "messages.py").write_text(f"def GenerationConfig({configuration}): ...\n")
    (package / "archs.py").write_text(archs)


@pytest.mark.parametrize(
    ("version", "archs", "said"),
    [
        ("0.19.1", "", "0.19.1 was found in "),
        ("0.18.9", "", "in 0.18.9 lmdeploy.archs:autoget_backend is missing"),
        ("0.18.9", "def autoget_backend(path): ...", "autoget_backend takes no model_path, trust"),
    ],
)
def test_what_a_worker_says(
    make: MakeWorker,
    uplink: RecordingUplink,
    tmp_path: Path,
    version: str,
    archs: str,
    said: str,
) -> None:
    release(tmp_path, version, archs)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    worker = make(engine="lmdeploy", options={"model": "m"}, environment={"PYTHONPATH": path})
    worker.start()
    why = uplink.wait_down("w")
    assert why.startswith("worker 'w' did not start") and "Traceback" not in why
    *_, last = why.splitlines()
    assert last.startswith("EngineStartError: engine 'lmdeploy' needs LMDeploy >=0.18,<0.19, but ")
    assert said in last and "pip install 'sage-llm-ops[lmdeploy]'" in last


@pytest.mark.lmdeploy
def test_what_is_installed_fits() -> None:
    pytest.importorskip("lmdeploy")
    versions.check_backend("pytorch", versions.check_release())
