"""Who in the fleet holds which prefix.

Three sources, in the order of what they are worth: what workers report (`told.py`), what a worker was
given a moment ago and will have (expected, for a limited time), and for workers that report nothing
what they were sent (`believed.py`). All of it comes in as events with their time, so a replay sees the
same view at the same decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, final

import numpy as np

from sage_llm_ops.prefix_reuse.base import ANY, REPORTED
from sage_llm_ops.prefix_reuse.believed import UNKNOWN_BLOCKS, Believed
from sage_llm_ops.prefix_reuse.compiled import functions
from sage_llm_ops.prefix_reuse.index import DEFAULT_MAX_BLOCKS, PrefixReuseIndex
from sage_llm_ops.prefix_reuse.keys import root_key
from sage_llm_ops.prefix_reuse.metrics import PrefixReuseMetrics
from sage_llm_ops.prefix_reuse.told import Told
from sage_llm_ops.types.events import KvBatch
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.kv import PrefixCache
from sage_llm_ops.types.prefix import Salt
from sage_llm_ops.types.requests import Request

SETTLE_S = 1.0
"""A worker that has answered reports what it computed within this time."""
SLACK = 4096
"""Blocks that may come in between two looks at the bound."""


@final
class Worker:
    """One that has a prefix cache."""

    __slots__ = ("believed", "cache", "groups", "told")

    def __init__(self, cache: PrefixCache, groups: dict[str, Salt], told: Told | None) -> None:
        self.cache, self.groups, self.told = cache, groups, told
        self.believed: dict[int, Believed] = {}
        """By block size, where it does not report."""


@dataclass(slots=True)
class Asked:
    """What a prompt is in one index."""

    index: PrefixReuseIndex
    salt: Salt
    data: bytes
    n: int
    """Whole blocks."""
    unit: int
    """Tokens a block."""


@dataclass(slots=True)
class Looked:
    """The latest answer: whoever places the request next is told what was known then."""

    request: RequestId
    hits: dict[WorkerId, int]
    reported: dict[WorkerId, int]
    known: int
    shared: int = 0


@dataclass(slots=True)
class Given:
    """A node on its worker."""

    request: Request
    worker: WorkerId
    incarnation: int
    asked: Asked
    claimed: int
    reachable: int
    ideal: int
    answered: bool = False
    ended: bool = False
    expected: bool = True
    """Whether its blocks still count as the worker's because of it."""
    due: float = 0.0


@final
class PrefixFleet:
    """Implements the plane's `PrefixView`. One writer, the graph."""

    def __init__(
        self,
        *,
        max_blocks: int = DEFAULT_MAX_BLOCKS,
        expect_s: float = 30.0,
        believe: bool = True,
        compiled: bool | None = None,
    ) -> None:
        self._workers: dict[WorkerId, Worker] = {}
        self.metrics = PrefixReuseMetrics(self._workers)
        self.drops: Counter[str] = Counter()
        """Batches of workers that are not there (`unknown_worker`) or were started anew since
        (`stale_start`), and what was dropped of workers that are gone; `Told.drops` has the others'."""
        self.clock: Callable[[], float] | None = None
        """A live run's, to measure lookups with; decides nothing."""
        self._max_blocks, self._expect_s = max_blocks, expect_s
        self._believe = believe
        self._compiled = functions() is not None if compiled is None else compiled
        """Asked now: in the middle of a graph's work nobody has time to compile."""
        self._indexes: dict[int, PrefixReuseIndex] = {}
        """By block size; 0 for traces, whose requests have block ids in the place of tokens."""
        self._groups: dict[str, dict[tuple[int, Salt], None]] = {}
        """By the name a request asks for: where to look."""
        self._looked = Looked(RequestId(""), {}, {}, 0)
        self._given: dict[NodeId, Given] = {}
        self._due: list[tuple[float, NodeId]] = []
        self._came = 0

    # -- workers ------------------------------------------------------------------------------

    def up(
        self, worker: WorkerId, model: str, models: tuple[str, ...], cache: PrefixCache | None
    ) -> None:
        """It came up, with an empty cache; without a cache it holds nothing that anybody knows."""
        self.down(worker)
        if cache is None or cache.block_size < 1 or not (cache.reports or self._believe):
            return
        groups = {
            name: Salt(model, name if name in cache.adapters else "") for name in (model, *models)
        }
        told = None
        if cache.reports:
            told = Told(self._index(cache.block_size), worker, model, cache)
        self._workers[worker] = Worker(cache, groups, told)
        self._regroup()

    def down(self, worker: WorkerId) -> None:
        """Nothing of it is left."""
        gone = self._workers.pop(worker, None)
        if gone is None:
            return
        if gone.told is not None:
            self.drops += gone.told.drops
        for index in self._indexes.values():
            if worker in index.numbers:
                index.remove(worker)
        self._regroup()

    def take(self, batch: KvBatch) -> None:
        """A worker reports."""
        found = self._workers.get(batch.worker)
        if found is None or found.told is None:
            self.drops["unknown_worker"] += 1
        elif batch.incarnation != found.cache.incarnation:
            self.drops["stale_start"] += 1
        else:
            self._grew(found.told.take(batch))

    # -- requests -----------------------------------------------------------------------------

    def match(self, request: Request, now: float) -> dict[WorkerId, int] | None:
        """Reusable prompt tokens of each worker that has any; None where nobody tells."""
        began = self.clock() if self.clock is not None else 0.0
        self._expire(now)
        places = self._groups.get(request.model)
        if not places or not (request.tokens or request.blocks):
            self._looked = Looked(request.id, {}, {}, 0)
            return None
        looked = Looked(request.id, {}, {}, 0)
        for size, salt in self._sizes(request, places):
            self._look(self._asked(request, size, salt), request.n_prompt - 1, looked)
        self._looked = looked
        self.metrics.looked_up(max(looked.hits.values(), default=0))
        if self.clock is not None:
            self.metrics.lookup_s.add(self.clock() - began)
        return looked.hits

    @property
    def shared(self) -> int:
        return self._looked.shared

    def placed(self, node: NodeId, request: Request, worker: WorkerId, now: float) -> None:
        """The worker is given the request: it will have its blocks."""
        found = self._workers.get(worker)
        if found is None or not (request.tokens or request.blocks):
            return
        size = 0 if request.blocks else found.cache.block_size
        salt = found.groups.get(request.model)
        if salt is None:
            return
        before = self._given.get(node)
        if before is not None:
            before.ended = True
            self._let_go(node, before)
        asked = self._asked(request, size, salt)
        looked = self._looked
        known = looked.request == request.id
        hits, reported = (looked.hits, looked.reported) if known else ({}, {})
        self._given[node] = Given(
            request,
            worker,
            found.cache.incarnation,
            asked,
            reported.get(worker, 0),
            max(hits.values(), default=0),
            looked.known if known else 0,
        )
        self._wait(node, now + self._expect_s)
        if asked.n:
            root = asked.index.tree.root(asked.index.digest(asked.salt), True)
            assert root is not None
            asked.index.tree.expect(root, asked.data, asked.n, asked.index.add(worker))
            self._grew(asked.n)

    def answered(self, node: NodeId, cached: int) -> None:
        """Its first token came, or its end; so much of the prompt was there already."""
        given = self._given.get(node)
        if given is None or given.answered:
            return
        given.answered = True
        request, worker = given.request, self._workers.get(given.worker)
        self.metrics.answered(
            request.tenant,
            given.worker,
            request.n_prompt,
            cached,
            given.claimed,
            given.reachable,
            given.ideal,
        )
        if worker is None or worker.cache.incarnation != given.incarnation or worker.told:
            return
        asked = given.asked
        believed = worker.believed.get(asked.index.block_size)
        if believed is None:
            blocks = worker.cache.blocks or UNKNOWN_BLOCKS
            capacity = blocks * worker.cache.block_size // asked.unit
            believed = Believed(asked.index, given.worker, capacity)
            worker.believed[asked.index.block_size] = believed
        believed.answered(given.claimed, cached, asked.unit)
        if asked.n:
            believed.sent(asked.data, asked.n, asked.salt)
            self._grew(asked.n)

    def ended(self, node: NodeId, now: float, *, failed: bool = False) -> None:
        """It is not there any more. What it computed stays expected until it is reported."""
        given = self._given.get(node)
        if given is None:
            return
        worker = self._workers.get(given.worker)
        given.ended = True
        if failed or worker is None or worker.told is None or not given.expected:
            self._let_go(node, given)
        else:
            self._wait(node, now + SETTLE_S)

    # -- whole --------------------------------------------------------------------------------

    def row(self, now: float) -> dict[str, Any]:
        """Plain numbers for people and metrics, from any thread."""
        counts = [index.tree.stats() for index in list(self._indexes.values())]
        drops = self.drops.copy()
        for worker in list(self._workers.values()):
            if worker.told is not None:
                drops += worker.told.drops.copy()  # it may grow meanwhile
        return {
            **self.metrics.row(sum(one.conflicts for one in counts)),
            "blocks": sum(one.blocks for one in counts),
            "evicted_blocks": sum(one.evicted for one in counts),
            "bytes": sum(one.bytes for one in counts),
            "drops": dict(drops),
            "silence_s": {name: round(s, 3) for name, s in self.staleness(now).items()},
        }

    def staleness(self, now: float) -> dict[WorkerId, float]:
        """Seconds since each reporting worker was last heard, of those that were heard."""
        return {
            name: now - worker.told.heard
            for name, worker in list(self._workers.items())
            if worker.told is not None and worker.told.heard is not None
        }

    def told(self, worker: WorkerId) -> Told | None:
        """What a reporting worker's batches came to."""
        found = self._workers.get(worker)
        return None if found is None else found.told

    def index(self, block_size: int) -> PrefixReuseIndex | None:
        """The index of one block size, to look at."""
        return self._indexes.get(block_size)

    def check_integrity(self) -> None:
        """Raise `IntegrityError` where it contradicts itself."""
        for index in self._indexes.values():
            index.shrink()
            index.check_integrity()

    # -- inside -------------------------------------------------------------------------------

    def _index(self, size: int) -> PrefixReuseIndex:
        found = self._indexes.get(size)
        if found is None:
            found = self._indexes[size] = PrefixReuseIndex(
                size, max_blocks=self._max_blocks, remember=True, compiled=self._compiled
            )
        return found

    def _regroup(self) -> None:
        self._groups = {}
        for worker in self._workers.values():
            for name, salt in worker.groups.items():
                self._groups.setdefault(name, {})[worker.cache.block_size, salt] = None

    def _sizes(
        self, request: Request, places: dict[tuple[int, Salt], None]
    ) -> list[tuple[int, Salt]]:
        """A trace's blocks are in one index, whatever the engines' own sizes."""
        if request.blocks:
            return list(dict.fromkeys((0, salt) for _, salt in places))
        return list(places)

    def _asked(self, request: Request, size: int, salt: Salt) -> Asked:
        index = self._index(size)
        if size:
            n = min(request.n_prompt, len(request.tokens) // 4) // size
            return Asked(index, salt, request.tokens, n, size)
        salt = salt._replace(extra=f"blocks of {request.block_size}")
        ids = np.asarray(request.blocks, dtype="<u8") ^ np.uint64(root_key(salt))
        n = min(len(ids), request.n_prompt // request.block_size)
        return Asked(index, salt, ids.tobytes(), n, request.block_size)

    def _look(self, asked: Asked, most: int, looked: Looked) -> None:
        """`most`: an engine computes at least the last token itself."""
        index, n = asked.index, min(asked.n, most // asked.unit)
        found = index.find(asked.data, asked.salt, (ANY, REPORTED), not index.block_size, n)
        looked.known = max(looked.known, found.known * asked.unit)
        if not found.known:
            return
        if found.followed:
            looked.shared = max(looked.shared, found.known * asked.unit)
        half, unit, names = len(found.reach) // 2, asked.unit, index.names
        reach: Any = found.reach
        rows: Any = range(half)
        if half > 64:
            rows = reach[:half].nonzero()[0].tolist()
        else:
            reach = reach.tolist()  # few are looked at quicker one by one
        for row in rows:
            blocks, told = reach[row], reach[half + row]
            if blocks:
                looked.hits[WorkerId(names[row])] = int(blocks) * unit
                if told:
                    looked.reported[WorkerId(names[row])] = int(told) * unit

    def _wait(self, node: NodeId, due: float) -> None:
        self._given[node].due = due
        heappush(self._due, (due, node))

    def _expire(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            due, node = heappop(self._due)
            given = self._given.get(node)
            if given is not None and given.due == due:
                self._let_go(node, given)

    def _let_go(self, node: NodeId, given: Given) -> None:
        """Nothing is expected of it any more; what has not ended may still be answered."""
        if given.ended:
            del self._given[node]
        asked, worker = given.asked, self._workers.get(given.worker)
        expected, given.expected = given.expected, False
        if not expected or worker is None or worker.cache.incarnation != given.incarnation:
            return
        root = asked.index.tree.root(asked.index.digest(asked.salt), False)
        if root is not None and asked.n:
            asked.index.tree.unexpect(root, asked.data, asked.n, asked.index.add(given.worker))

    def _grew(self, blocks: int) -> None:
        self._came += blocks
        if self._came >= SLACK:
            self._came = 0
            for index in self._indexes.values():
                index.shrink()
