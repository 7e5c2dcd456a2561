"""`import sage_llm_ops` is cheap and loads nothing heavy; nor does what is imported from it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

HEAVY = ("torch", "vllm", "transformers", "lmdeploy", "ray", "sage")
LIMIT_S = 0.3
REPORT = """
import json, resource, sys
{statement}
used = resource.getrusage(resource.RUSAGE_SELF)
loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
print(json.dumps([used.ru_utime + used.ru_stime, loaded]))
"""


def _child(statement: str) -> tuple[float, list[str]]:
    """CPU seconds of an interpreter that runs one statement, and the packages it has loaded then.

    CPU and not wall time: how loaded the machine is says nothing about the import.
    """
    done = subprocess.run(
        [sys.executable, "-c", REPORT.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded


def test_the_package_costs_less_than_the_limit() -> None:
    pairs = [(_child("import sage_llm_ops")[0], _child("pass")[0]) for _ in range(5)]
    assert statistics.median(ours - empty for ours, empty in pairs) < LIMIT_S


def test_the_package_loads_nothing_heavy() -> None:
    loaded = _child("import sage_llm_ops")[1]
    assert "sage_llm_ops" in loaded
    assert not {*HEAVY, "numpy", "pydantic", "msgspec", "asyncio"} & set(loaded)


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("from sage_llm_ops import ExecutionInstance, RequestMetadata, SamplingParams", ()),
        ("from sage_llm_ops import ControlPlaneManager", ("sage",)),
        ("from sage_llm_ops.testing import sim_fleet", ("sage",)),
    ],
    ids=["nouns", "manager", "testing"],
)
def test_no_engine_is_loaded_before_it_is_used(statement: str, allowed: tuple[str, ...]) -> None:
    loaded = _child(statement)[1]
    assert not set(HEAVY).difference(allowed) & set(loaded)
