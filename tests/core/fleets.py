"""What the tests of this folder start from."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from sage_llm_ops import ControlPlaneManager, ExecutionInstance, RequestMetadata
from sage_llm_ops.core import RestartPolicy
from sage_llm_ops.engines.tokenizers import ByteTokenizer
from sage_llm_ops.testing import HeldFleet, sim_instances
from sage_llm_ops.testing.echo_engine import ECHO

MODEL = "sim-model"
QUICK = RestartPolicy(first_s=0.01, most_s=0.04, attempts=3)
SLOW = RestartPolicy(first_s=3600.0, most_s=3600.0)
"""A worker that dies stays dead for as long as a test lasts."""


def instance(identity: str = "w0", model: str = MODEL, **fields: Any) -> ExecutionInstance:
    return ExecutionInstance(identity, model_name=model, engine="sim", **fields)


def echo(identity: str = "w0", **options: Any) -> ExecutionInstance:
    """A worker process of its own, with an engine that loads nothing."""
    return ExecutionInstance(
        identity,
        model_name=MODEL,
        engine=ECHO,
        placement="process",
        options={"tokenizer_kind": "bytes", "tokenizer_hash": ByteTokenizer.hash, **options},
    )


def request(identity: str = "r", **fields: Any) -> RequestMetadata:
    """Greedy, so that it may be continued elsewhere."""
    fields.setdefault("sampling_params", {"temperature": 0.0})
    return RequestMetadata(identity, prompt=fields.pop("prompt", "Hello"), **fields)


@asynccontextmanager
async def simulated(
    n: int = 1, *, sim: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[ControlPlaneManager]:
    """A manager over `n` fast simulated workers, not started by hand."""
    manager = ControlPlaneManager(**options)
    for each in sim_instances(n, **{"speed": 1000.0, **(sim or {})}):
        manager.register_instance(each)
    try:
        yield manager
    finally:
        await manager.stop(5.0)


@asynccontextmanager
async def held(
    *identities: str, workers: dict[str, dict[str, Any]] | None = None, **options: Any
) -> AsyncIterator[tuple[ControlPlaneManager, HeldFleet]]:
    """A started manager over workers that the test moves."""
    fleet = HeldFleet(**(workers or {}))
    manager = ControlPlaneManager(make=fleet, **options)
    for identity in identities:
        manager.register_instance(instance(identity))
    await manager.start()
    try:
        yield manager, fleet
    finally:
        await manager.stop(0.0)


async def until(holds: Callable[[], Any], timeout_s: float = 10.0) -> None:
    """Let the graph's thread go on until something holds that nobody announces."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        await asyncio.sleep(0.002)


async def holder(fleet: HeldFleet, identity: str) -> list[str]:
    """The worker that holds a request, once one does, and then the others."""
    await until(lambda: any(identity in each.nodes for each in fleet.workers.values()))
    return sorted(fleet.workers, key=lambda worker: identity not in fleet[worker].nodes)
