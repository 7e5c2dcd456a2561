"""Hands of a simulation: from decisions to simulated engines, and what their caches hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sage_llm_ops.engines.sim.tokens import block_keys
from sage_llm_ops.operators import NobodyKnows
from sage_llm_ops.pipeline.sim_source import SimSource
from sage_llm_ops.types.events import Job, Outcome
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request


class SimHands:
    """Hands a node to a simulated engine at the virtual now."""

    def __init__(self, source: SimSource, on_end: Callable[[Outcome], None] | None) -> None:
        self._source = source
        self._on_end = on_end
        self.ends: dict[str, int] = {}
        """Outcomes by code; the empty code is completion."""

    def execute(self, node: PlanNode, job: Job) -> None:
        """The answer comes out of a later step."""
        request = job.request
        node.tokens, node.sampling = request.tokens, request.sampling.after(node.offset)
        node.blocks, node.block_size = request.blocks, request.block_size
        if node.kind == "prefill":
            node.sampling = node.sampling.first_only()
        if node.offset and node.tokens:
            # Delivered tokens are counted here, not kept: any ids of the right number will do.
            node.tokens += bytes(4 * node.offset)
        worker = self._source.workers[WorkerId(node.worker)]
        if not worker.up:  # the second node of a plan: its worker may have died meanwhile
            self._source.fail(node.id, f"worker {node.worker!r} is down")
            return
        if self._source.now < worker.ails_until:
            self._source.refuse(node, worker)
            return
        worker.delivered[node.id] = 0
        worker.core.submit(node, self._source.now)
        self._source.rewake(worker)

    def cancel(self, node: NodeId, worker: WorkerId) -> None:
        """At the end of the step in flight."""
        found = self._source.workers[worker]
        found.core.cancel(node, self._source.now)
        self._source.rewake(found)

    def deliver(self, outcome: Outcome) -> None:
        """Count it."""
        self.ends[outcome.code] = self.ends.get(outcome.code, 0) + 1
        if self._on_end is not None:
            self._on_end(outcome)


class SimHolders(NobodyKnows):
    """Who holds which prefix, looked up in the engines themselves: what an index would know that
    hears of every block at once."""

    def __init__(self, source: SimSource) -> None:
        self._workers = source.workers
        self._shared = 0
        self._keys: dict[int, Sequence[Any]] = {}
        """Of the request that was looked up last, by block size."""
        self._next: dict[Any, Any] = {}
        """By block: the first that was ever computed behind it."""

    def match(self, request: Request, now: float) -> Mapping[WorkerId, int] | None:
        """Reusable prompt tokens per worker, of those that have any."""
        found: dict[WorkerId, int] = {}
        keys = self._keys = {}
        longest = self._shared = 0
        for identity, worker in self._workers.items():
            options = worker.core.options
            if not worker.up or not options.prefix_cache:
                continue
            size = options.block_size
            if size not in keys:
                node = PlanNode(NodeId(0), request.id, "", 0, n_tokens=request.n_prompt)
                node.tokens, node.blocks = request.tokens, request.blocks
                node.block_size = request.block_size
                keys[size] = block_keys(node, size)
            count = worker.core.pool.match(keys[size])
            if count:
                found[identity] = count * size
                if count * size > longest:
                    longest = count * size
                    self._shared = longest if self._parts(keys[size], count) else 0
        return found

    @property
    def shared(self) -> int:
        """Where several went on from the longest prefix that anybody has."""
        return self._shared

    def placed(self, node: NodeId, request: Request, worker: WorkerId, now: float) -> None:
        """Its blocks follow one another."""
        for keys in self._keys.values():
            for block, behind in pairwise(keys):
                self._next.setdefault(block, behind)

    def _parts(self, keys: Sequence[Any], count: int) -> bool:
        """Whether others went on from these blocks otherwise than this prompt does."""
        others = self._next.get(keys[count - 1])
        return others is not None and (count == len(keys) or others != keys[count])
