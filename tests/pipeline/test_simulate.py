"""The simulate driver: the same answer in every process, and nothing lost to faults."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sage.runtime import JobManager

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.pipeline.sim_source import Ailing, Arrival, CancelAt, Crash
from sage_llm_ops.pipeline.simulate import SimReport, simulate
from sage_llm_ops.pipeline.synthetic import generate_trace
from sage_llm_ops.pipeline.traces import to_request
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.testing.requests import make_request

FAST = SimOptions(kv_blocks=4096, block_size=512, max_num_seqs=4, visible_tokens=False)
FAULTS = (
    Crash(5.0, "sim0", 3.0),
    Crash(6.0, "sim1", 1.0),
    Crash(6.0, "sim0", 1.0),
    CancelAt(4.0, "t10"),
    CancelAt(4.5, "t11"),
    CancelAt(1.0, "never was"),
)


def arrivals(n: int = 150, **fields: object) -> Iterator[Arrival]:
    for index, trace in enumerate(generate_trace(n, seed=7, rate=20.0, mean_output=60)):
        request = to_request(trace, index, "sim")
        for name, value in fields.items():
            setattr(request, name, value)
        request.priority = index % 5
        yield trace.at, request


def run(policy: str = "priority", **options: object) -> SimReport:
    spec = serving(scheduling_policy=policy)
    return simulate(
        spec,
        arrivals(),
        instances=3,
        options=FAST,
        faults=FAULTS,
        **options,  # type: ignore[arg-type]
    )


def test_every_request_ends_once_whatever_fails() -> None:
    report = run()
    assert report.requests == 150
    assert sum(report.ends.values()) == 150
    assert set(report.ends) <= {"", "cancelled", "worker_lost", "quarantined"}
    assert report.ends[""] > 140


@pytest.mark.parametrize("policy", ["fifo", "priority"])
def test_chained_or_not_the_decisions_are_the_same(policy: str) -> None:
    fused, plain = run(policy), run(policy, fuse=False)
    assert (fused.digest, fused.decisions) == (plain.digest, plain.decisions)
    assert fused.ends == plain.ends


def test_the_policy_is_not_ignored() -> None:
    assert run("fifo").digest != run("priority").digest


def test_the_same_in_every_process() -> None:
    """Under any hash seed: neither a set's order nor an address may decide."""
    code = "from test_simulate import run; print(run().digest)"
    here = Path(__file__).parent
    digests = {run().digest}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])]),
            },
        )
        for seed in ("1", "4242")
    ]
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        digests.add(out.decode().strip())
    assert len(digests) == 1


def ailing(**options: object) -> tuple[SimReport, Ledger]:
    """For a while one worker fails at once whatever it is given, and so attracts all there is."""
    book = Ledger(keep=10_000)
    report = simulate(
        serving(),
        arrivals(600),
        instances=2,
        options=FAST,
        faults=[Ailing(2.0, "sim0", 8.0)],
        ledger=book,
        **options,  # type: ignore[arg-type]
    )
    return report, book


def test_a_worker_that_fails_what_it_is_given_is_left_alone_and_comes_back() -> None:
    report, book = ailing()
    assert report.ends == {"": 600}
    told = [entry.code for entry in book.entries() if entry.kind == "breaker"]
    assert told == ["opened", "half_open", "opened", "half_open", "closed"]
    assert report.table["total"]["retries"] < 10, "those that opened it, and one probe"
    assert report.digest == ailing(fuse=False)[0].digest
    assert report.table["sim0"]["completed"] > 100


def test_deadlines_pass_in_virtual_time() -> None:
    report = simulate(serving(), arrivals(timeout_s=0.5), instances=1, options=FAST)
    assert report.ends["deadline_expired"] > 0
    assert sum(report.ends.values()) == 150


def test_a_repeated_id_leaves_the_first_one_alone() -> None:
    twice = [(0.0, make_request("a", model="sim", timeout_s=50.0)) for _ in range(2)]
    report = simulate(serving(), twice, instances=1, options=FAST)
    assert report.ends == {"duplicate_request": 1, "": 1}


def test_no_arrivals() -> None:
    report = simulate(serving(), [], instances=1, options=FAST)
    assert (report.requests, report.ends) == (0, {})


def test_a_workload_that_breaks_leaves_no_job_in_sage() -> None:
    def broken() -> Iterator[Arrival]:
        yield from arrivals(3)
        raise OSError("the trace is cut off")

    before = len(JobManager().jobs)
    with pytest.raises(OSError, match="cut off"):
        simulate(serving(), broken(), instances=1, options=FAST)
    assert len(JobManager().jobs) == before
