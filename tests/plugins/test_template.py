"""The template package, installed for real, and a pipeline that names everything it brings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put it: a folder that only children see."""
    if pip_is_missing():
        pytest.skip("this environment has no pip to install with")
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(TEMPLATE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, "--target", str(folder / "site"), str(source)], check=True)
    return folder / "site"


def pip_is_missing() -> bool:
    found = subprocess.run(
        [sys.executable, "-m", "pip", "--version"], capture_output=True, check=False
    )
    return found.returncode != 0


def cli(site: Path | None, cwd: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    path = [str(ROOT), *([str(site)] if site else [])]
    return subprocess.run(
        [sys.executable, "-m", "sage_llm_ops.cli", *argv],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_serves_with_its_engine_in_worker_processes(site: Path, tmp_path: Path) -> None:
    pipeline = str(TEMPLATE / "pipeline.toml")
    argv = ["--prompt", "Hello Polly", "--max-tokens", "14", "--record", "r.jsonl", "--json"]
    done = cli(site, tmp_path, "run", pipeline, *argv)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    assert answer["text"] == "Hello PollyHel"
    assert answer["worker"] in ("parrot-0", "parrot-1")
    assert "hash of tenant and worker" in answer["why"]
    again = cli(site, tmp_path, "replay", "r.jsonl", "--json")
    assert json.loads(again.stdout)["same"] is True, again.stderr


def test_it_simulates_the_same_twice(site: Path, tmp_path: Path) -> None:
    argv = ("simulate", str(TEMPLATE / "pipeline.toml"), "--requests", "40", "--json")
    one, two = (json.loads(cli(site, tmp_path, *argv).stdout) for _ in range(2))
    assert one["ends"] == {"completed": 40}
    assert one["digest"] == two["digest"]


def test_its_classes_with_simulated_workers_live(site: Path, tmp_path: Path) -> None:
    code = f"""
import dataclasses
from sage_llm_ops.config import load_pipeline
from sage_llm_ops.core import ControlPlane
from sage_llm_ops.testing import sim_instances
from sage_llm_ops.types.requests import RequestMetadata

spec = load_pipeline({str(TEMPLATE / "pipeline.toml")!r})
plane = ControlPlane(dataclasses.replace(spec, instances=tuple(sim_instances(3))))
plane.start()
tenants = ["ada", "bob", "cyd"] * 4
handles = [
    plane.submit(RequestMetadata(prompt="four", max_tokens=5, user_id=tenant)) for tenant in tenants
]
homes = {{tenant: set() for tenant in tenants}}
for tenant, handle in zip(tenants, handles):
    homes[tenant].add(handle.result().instance_id)
assert plane.stop()
print({{tenant: len(workers) for tenant, workers in homes.items()}})
print(dict(plane.pipeline.operators["tenant_tokens"].tokens))
"""
    path = os.pathsep.join([str(ROOT), str(site)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "{'ada': 1, 'bob': 1, 'cyd': 1}",
        "{'ada': 36, 'bob': 36, 'cyd': 36}",
    ]


def test_its_eviction_policy_beside_ours(site: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("".join(f"{n}\n" for n in [1, 2, 3, 1, 4, 1, 5, 1, 6, 1]))
    argv = ["--policy", "clock", "--policy", "fifo", "--capacity", "3", "--json"]
    done = cli(site, tmp_path, "policy", "replay", str(ids), *argv)
    assert done.returncode == 0, done.stderr
    hits = {row["policy"]: row["hits"] for row in json.loads(done.stdout)["rows"]}
    assert hits == {"clock": 4, "fifo": 3, "belady": 4}
    done = cli(None, tmp_path, "policy", "replay", str(ids), *argv)
    assert done.returncode == 2
    assert "unknown eviction policy 'clock'" in done.stderr


def test_without_the_package_the_file_is_refused_by_name(tmp_path: Path) -> None:
    done = cli(None, tmp_path, "config", "check", str(TEMPLATE / "pipeline.toml"))
    assert done.returncode == 2
    assert "unknown operator 'tenant_tokens'" in done.stderr


def test_config_check_knows_the_plugins(site: Path, tmp_path: Path) -> None:
    done = cli(site, tmp_path, "config", "check", str(TEMPLATE / "pipeline.toml"))
    assert done.returncode == 0, done.stderr
    wrong = tmp_path / "wrong.toml"
    text = (TEMPLATE / "pipeline.toml").read_text().replace("sticky_tenant", "sticky_tenants")
    wrong.write_text(text)
    done = cli(site, tmp_path, "config", "check", str(wrong))
    assert "did you mean 'sticky_tenant'? known: affinity, " in (done.stderr)
