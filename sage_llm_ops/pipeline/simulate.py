"""The simulate driver: the same graph on a virtual clock (`sim_source.py`), with simulated engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.operators import OPERATORS, Operator, Plane
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.sage_graph import close, wire
from sage_llm_ops.pipeline.sim_hands import SimHands, SimHolders
from sage_llm_ops.pipeline.sim_source import Arrival, Fault, SimSource, SimWorker
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.events import Outcome
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.pipelines import PipelineSpec


@dataclass(frozen=True, slots=True)
class SimReport:
    """What a simulation showed. Times are virtual unless they say otherwise."""

    requests: int
    ends: dict[str, int]
    duration_s: float
    digest: str
    decisions: int
    table: dict[str, dict[str, Any]]
    real_s: float

    @property
    def real_us_per_request(self) -> float:
        """Cost of simulating."""
        return self.real_s / max(1, self.requests) * 1e6


def simulate(
    spec: PipelineSpec,
    arrivals: Iterable[Arrival],
    *,
    instances: int | None = None,
    model: str | None = None,
    options: SimOptions | None = None,
    faults: Iterable[Fault] = (),
    registry: Mapping[str, type[Operator]] = OPERATORS,
    ledger: Ledger | None = None,
    fuse: bool = True,
    on_end: Callable[[Outcome], None] | None = None,
    knows_prefixes: bool = False,
) -> SimReport:
    """Run `arrivals` through the graph of `spec` on simulated engines.

    `instances` replaces the file's fleet by so many equal workers. Engines take `options`, or the
    file's `[simulate]` table. With `knows_prefixes` every decision is told who holds the prompt's
    beginning.
    """
    graph = check(spec, registry)
    source = SimSource(arrivals, faults)
    hands = SimHands(source, on_end)
    book = ledger or Ledger(spec.ledger, keep=1)
    plane = Plane(source, hands, book, SimHolders(source) if knows_prefixes else None)
    operators = graph.operators(plane)
    for worker in _workers(spec, instances, model, options):
        source.add(worker)
    env = wire(graph, operators, source, fuse=fuse)
    began = time.perf_counter()
    try:
        env.submit(autostop=True)
    finally:
        close(env)
    real = time.perf_counter() - began
    book.flush()
    if plane.jobs:
        some = ", ".join(sorted(plane.jobs)[:3])
        raise IntegrityError(f"{len(plane.jobs)} requests never ended ({some}, ...)")
    if plane.broken:
        raise IntegrityError(f"{plane.broken} operator calls failed; see the log")
    for operator in operators.values():
        operator.check_integrity()
    plane.fleet.check_integrity()
    table = plane.metrics.table()
    return SimReport(
        source.arrived, hands.ends, source.now, book.digest, book.decisions, table, real
    )


def _workers(
    spec: PipelineSpec, instances: int | None, model: str | None, options: SimOptions | None
) -> Iterator[SimWorker]:
    chosen = options or SimOptions.parse({"visible_tokens": False, **spec.simulate})
    known = list(spec.instances) or [ExecutionInstance("sim0")]
    if instances is not None:
        known = [ExecutionInstance(f"sim{n}") for n in range(instances)]
    served = model or next((i.model_name for i in known if i.model_name), "sim")
    for instance in known:
        named = replace(instance, model_name=instance.model_name or served)
        identity, others = WorkerId(named.instance_id), named.other_names
        yield SimWorker(identity, named.model_name, chosen, others, named)
