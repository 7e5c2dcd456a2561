"""Every order with every routing through the real graph, simulated: nothing lost, same digest."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.pipeline.sim_source import Crash
from sage_llm_ops.pipeline.simulate import SimReport, simulate
from sage_llm_ops.pipeline.synthetic import generate_trace
from sage_llm_ops.pipeline.traces import to_request
from sage_llm_ops.scheduler_ir import ROUTINGS, SPLITTERS, STRATEGIES
from sage_llm_ops.types.instances import ExecutionInstance

OPTIONS = SimOptions(block_size=512, kv_blocks=256, max_num_seqs=6, visible_tokens=False)
FLEET = tuple(
    ExecutionInstance(
        f"w{n}", instance_type=role, price_per_hour=float(1 + n), location=f"r/h{n % 2}"
    )
    for n, role in enumerate(("general", "prefilling", "decoding", "general"))
)


def run(strategy: str, routing: str, pd: str, seed: int, rate: float = 6.0) -> SimReport:
    arrivals = []
    trace = generate_trace(60, seed=seed, rate=rate, mean_prompt=2000, mean_output=60)
    for index, row in enumerate(trace):
        request = to_request(row, index, "sim")
        request.tenant, request.priority = "abc"[index % 3], index % 5
        request.slo_ms = (None, 3_000.0, 20_000.0)[index % 3]
        arrivals.append((row.at, request))
    spec = serving(
        scheduling_policy=strategy,
        routing_strategy=routing,
        pd_policy=pd,
        pd_options={"threshold": 500},
        instances=FLEET,
    )
    faults = [Crash(2.0, "w1", 1.0), Crash(4.0, "w2", 2.0)]
    return simulate(spec, arrivals, options=OPTIONS, faults=faults, knows_prefixes=True)


@given(
    strategy=st.sampled_from(sorted(STRATEGIES)),
    routing=st.sampled_from(sorted(ROUTINGS)),
    pd=st.sampled_from(sorted(SPLITTERS)),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_nothing_lost_and_deterministic(strategy: str, routing: str, pd: str, seed: int) -> None:
    """`simulate` itself checks that every request ends once and that reservations are exact."""
    report = run(strategy, routing, pd, seed)
    # One routing or another gives a request to both of the workers that crash: it is set apart then.
    assert sum(report.ends.values()) == 60
    assert set(report.ends) <= {"", "quarantined"}
    assert report.ends[""] >= 57
    assert run(strategy, routing, pd, seed).digest == report.digest


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_a_strategy_changes_what_is_decided(strategy: str) -> None:
    """Regression of names that are accepted and ignored."""
    alone = {name: run(name, "load_balanced", "never", 1, rate=60.0).digest for name in ("fifo",)}
    if strategy not in ("fifo", "aegaeon", "hybrid"):  # one model and one task: nothing to group
        assert run(strategy, "load_balanced", "never", 1, rate=60.0).digest != alone["fifo"]


def test_a_split_shows_in_who_worked() -> None:
    report = run("fifo", "load_balanced", "always", 2)
    assert report.table["w2"]["completed"] > 10
    whole = run("fifo", "load_balanced", "never", 2)
    assert whole.digest != report.digest


def budgeted(budgets: list[float | None]) -> dict[str, tuple[str, Any]]:
    """Requests that arrive together at a cheap worker of two places and a dear one."""
    fleet = tuple(
        ExecutionInstance(name, price_per_hour=price)
        for name, price in (("cheap", 1), ("dear", 100))
    )
    small = SimOptions(max_num_seqs=2, visible_tokens=False)
    arrivals = []
    for index, row in enumerate(generate_trace(len(budgets), seed=1, mean_prompt=500)):
        request = to_request(row, index, "sim")
        request.cost_budget = budgets[index]
        arrivals.append((0.0, request))
    ends: dict[str, tuple[str, Any]] = {}
    simulate(
        serving(instances=fleet),
        arrivals,
        options=small,
        on_end=lambda end: ends.update({end.job.request.id: (end.code, end.job.worker)}),
    )
    return ends


def test_a_cost_budget_holds_whatever_the_order() -> None:
    """Cheap places while there are any; then it ends at once, and holds up nobody."""
    ends = list(budgeted([0.001] * 6).values())
    assert {worker for code, worker in ends if not code} == {"cheap"}
    assert {code for code, _ in ends} == {"", "over_budget"}
    mixed = list(budgeted([0.0, None, 0.0, None]).values())
    assert sorted(code for code, _ in mixed) == ["", "", "over_budget", "over_budget"]


def everything() -> list[str]:
    """Digests of runs in which every order, every routing and every split takes part."""
    names = zip(
        itertools.cycle(sorted(STRATEGIES)),
        sorted(ROUTINGS),
        itertools.cycle(sorted(SPLITTERS)),
        strict=False,
    )
    return [run(*chosen, seed=4, rate=20.0).digest for chosen in names]


def test_the_same_under_any_hash_seed() -> None:
    code = "from tests.scheduler_ir.test_whole_runs import everything; print(everything())"
    root = str(Path(__file__).resolve().parents[2])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        )
        for seed in ("1", "4242")
    ]
    found = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert found == [str(everything())] * 2


def test_a_fleet_of_nobody_serves_nobody() -> None:
    """Regression: asked to simulate no instance it simulated one."""
    arrivals = [(row.at, to_request(row, n, "sim")) for n, row in enumerate(generate_trace(5))]
    report = simulate(serving(), arrivals, instances=0, options=OPTIONS)
    assert report.ends == {"no_instance": 5}
