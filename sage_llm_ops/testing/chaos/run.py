"""One run of chaos, from the first start to the last check."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import msgspec

from sage_llm_ops.core import ControlPlane, serving
from sage_llm_ops.pipeline.handle import RequestHandle
from sage_llm_ops.telemetry.ledger import Entry
from sage_llm_ops.testing.chaos.clients import Clients
from sage_llm_ops.testing.chaos.fleet import ChaosFleet
from sage_llm_ops.testing.chaos.leaks import held
from sage_llm_ops.testing.chaos.report import Report
from sage_llm_ops.testing.fleets import sim_instances

CLIENTS = 16
PROMPTS = 64
MAX_TOKENS = 48
PAUSE_S = (0.1, 0.6)
"""Between two faults."""
REQUEST_TIMERS = ("deadline", "cancel_ack")
PATIENCE_S = 120.0
"""All that was accepted has ended so long after the last fault."""


def run(fleet: ChaosFleet, folder: Path, seconds: float, seed: int) -> Report:
    """`folder` is the temporary folder of this run alone (`TMPDIR`, and for sockets)."""
    report = Report(seed, seconds)
    asyncio.run(_run(fleet, folder, report))
    return report


async def _run(fleet: ChaosFleet, folder: Path, report: Report) -> None:
    await asyncio.to_thread(_warm_up)
    kept = folder.parent / f"{folder.name}-kept"
    kept.mkdir(exist_ok=True)
    ledger = kept / f"ledger-{report.seed}.jsonl"
    before = held(folder)
    plane = fleet.plane(ledger)
    try:
        await asyncio.to_thread(plane.start)
        clients = Clients(plane, [_prompt(n) for n in range(PROMPTS)], MAX_TOKENS)
        await clients.calm()
        await _storm(fleet, clients, report)
        await _settle(clients)
        report.violations += clients.violations() + _inside(plane)
        report.ends, report.reasons = clients.ends()
        report.completed = clients.completed()
        report.refused = clients.refused
        report.restarts = sum(
            worker.incarnation - 1 for worker in plane.pipeline.hands.workers.values()
        )
        if plane.given_up:
            report.violations.append(f"workers were given up: {plane.given_up}")
    finally:
        await asyncio.to_thread(plane.stop, 10.0)
        fleet.close()
    report.violations += _ends_told(ledger, [asked.handle for asked in clients.asked])
    report.violations += await _left_behind(before, folder)
    if not report.faults:
        report.violations.append("no fault was injected: this run has shown nothing")


async def _storm(fleet: ChaosFleet, clients: Clients, report: Report) -> None:
    chance = random.Random(report.seed)
    over = asyncio.Event()
    callers = [
        asyncio.create_task(clients.one(chance.randrange(1 << 30), over)) for _ in range(CLIENTS)
    ]
    end = time.monotonic() + report.seconds
    faults: list[str] = []
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        if not faults:
            faults = chance.sample(list(fleet.faults), len(fleet.faults))
        fault = faults.pop()
        if who := await fleet.inject(fault, chance):
            report.faults[fault, who] += 1
        else:
            faults.insert(0, fault)  # after the others
    over.set()
    _, late = await asyncio.wait(callers, timeout=PATIENCE_S)
    for caller in callers:
        if caller in late:
            caller.cancel()
        elif caller.exception() is not None:
            report.violations.append(f"a caller met {caller.exception()!r}")
    report.violations += ["a caller still waits"] * len(late)


async def _settle(clients: Clients) -> None:
    """Those whose callers vanished end as well; a violation where they do not."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and not all(a.handle.done() for a in clients.asked):
        await asyncio.sleep(0.05)


def _inside(plane: ControlPlane) -> list[str]:
    """The graph is empty, and its accounts add up."""
    graph = plane.pipeline.plane
    found = []
    if graph.broken:
        found.append(f"{graph.broken} operator calls failed")
    left = {
        "handles": plane.pipeline.hands.handles,
        "jobs": graph.jobs,
        "running nodes": graph.running,
        "reservations": graph.fleet.reservations,
        "timers of requests": [
            timer for timer in plane.pipeline.source.pending() if timer[0] in REQUEST_TIMERS
        ],
    }
    found += [f"{what} are left in the graph" for what, some in left.items() if some]
    graph.fleet.check_integrity()
    return found


def _ends_told(ledger: Path, handles: list[RequestHandle]) -> list[str]:
    """Each accepted request has one last line in the ledger, and no more."""
    decode = msgspec.json.Decoder(Entry).decode
    entries = [decode(line) for line in ledger.read_bytes().splitlines()]
    ends = Counter(entry.request for entry in entries if entry.kind == "end")
    wrong = [(h.request_id, ends[h.request_id]) for h in handles if ends[h.request_id] != 1]
    return [f"{identity} ended {count} times in the ledger" for identity, count in wrong]


async def _left_behind(before: set[str], folder: Path) -> list[str]:
    """What is still held a moment after the stop; the last processes take that long to go."""
    left: set[str] = set()
    for _ in range(100):
        left = held(folder) - before
        if not left:
            break
        await asyncio.sleep(0.05)
    tasks = {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    return [f"left behind: {each}" for each in sorted(left)] + [f"left task: {t}" for t in tasks]


def _warm_up() -> None:
    """A plane that works and ends, so that what is loaded once and kept is there already."""
    plane = ControlPlane(serving())
    for instance in sim_instances(1, speed=1000.0):
        plane.register(instance)
    plane.start()
    plane.stop(5.0)


def _prompt(number: int) -> str:
    return f"the shared beginning of group {number % 4}, " * 4 + f"and question {number}"
