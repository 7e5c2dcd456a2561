"""The same engine written the slow and obvious way: step by step, lists, no heap, no jumps."""

from __future__ import annotations

from dataclasses import dataclass, field

from sage_llm_ops.engines.sim import SimOptions
from sage_llm_ops.engines.sim.timing import PolynomialTiming, to_seconds
from sage_llm_ops.types.plans import PlanNode


@dataclass(eq=False)
class Job:
    node: PlanNode
    made: int = 0
    computed: int = 0
    chunk: int = 0
    decoding: bool = False
    cached: int | None = None
    shared: list[int] = field(default_factory=list)
    private: int = 0
    first: float | None = None

    @property
    def total(self) -> int:
        return self.node.n_tokens + self.made


class Reference:
    def __init__(self, options: SimOptions) -> None:
        self.o = options
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self.idle: list[int] = []
        self.cached: set[int] = set()
        self.preemptions = 0
        self.ends: dict[int, tuple[float | None, float, str, int, int]] = {}

    def active(self) -> int:
        return len({k for j in self.running for k in j.shared}) + sum(
            j.private for j in self.running
        )

    def allocate(self, count: int, keep: list[int]) -> bool:
        evictable = [key for key in self.idle if key not in keep]
        empty = self.o.kv_blocks - self.active() - len(self.idle)
        if count > empty + len(evictable):
            return False
        for key in evictable[: max(0, count - empty)]:
            self.idle.remove(key)
            self.cached.remove(key)
        self.idle = [key for key in self.idle if key not in keep]
        return True

    def drop(self, job: Job) -> None:
        self.running.remove(job)
        for key in reversed(job.shared):
            if not any(key in other.shared for other in self.running):
                self.idle.append(key)
        job.shared, job.private = [], 0

    def keys(self, job: Job) -> tuple[int, ...]:
        full = job.node.n_tokens // self.o.block_size
        return job.node.blocks[:full] if self.o.prefix_cache else ()

    def take_chunk(self, job: Job, budget: int) -> int:
        job.chunk = min(job.total - job.computed, budget)
        keys = self.keys(job)
        start = job.computed // self.o.block_size
        for key in keys[start : (job.computed + job.chunk) // self.o.block_size]:
            if key not in self.cached:
                self.cached.add(key)
                job.shared.append(key)
                job.private -= 1
        return job.chunk

    def step(self) -> tuple[int, bool]:
        """Compose a step; prompt tokens and whether something decodes."""
        size = self.o.block_size
        preempted = False
        for job in list(self.running):
            while job in self.running and job.decoding:
                if -(-job.total // size) <= len(job.shared) + job.private:
                    break
                if self.allocate(1, []):
                    job.private += 1
                    continue
                victim = self.running[-1]
                self.drop(victim)
                victim.decoding, preempted = False, True
                self.preemptions += 1
                self.waiting.insert(0, victim)
        decodes = [job for job in self.running if job.decoding]
        budget = left = self.o.max_num_batched_tokens - len(decodes)
        for job in self.running:
            if not job.decoding:
                left -= self.take_chunk(job, left)
        while self.waiting and left and not preempted and len(self.running) < self.o.max_num_seqs:
            job = self.waiting[0]
            found: list[int] = []
            for key in self.keys(job):
                if key not in self.cached or (len(found) + 1) * size > job.total - 1:
                    break
                found.append(key)
            need = -(-job.total // size) - len(found)
            if not self.allocate(need, found):
                break
            self.waiting.pop(0)
            self.running.append(job)
            job.shared, job.private, job.computed = found, need, len(found) * size
            job.cached = job.computed if job.cached is None else job.cached
            left -= self.take_chunk(job, left)
        return budget - left, bool(decodes)

    def finish(self, now: float) -> None:
        for job in list(self.running):
            if not job.decoding:
                job.computed += job.chunk
                if job.computed < job.total:
                    continue
                job.decoding = True
            job.made += 1
            if job.first is None:
                job.first = now
            room = self.o.max_tokens - job.node.n_tokens
            if job.made == min(job.node.sampling.max_tokens, room):
                self.drop(job)
                self.ends[job.node.id] = (job.first, now, "length", job.made, job.cached or 0)

    def run(self, arrivals: list[tuple[int, PlanNode]]) -> None:
        """Arrivals as (tick, node), in order."""
        timing, tick, queue = PolynomialTiming(self.o), 0, list(arrivals)
        while queue or self.waiting or self.running:
            if not self.waiting and not self.running:
                tick = max(tick, queue[0][0])
            while queue and queue[0][0] <= tick:
                self.waiting.append(Job(queue.pop(0)[1]))
            prompt, decoding = self.step()
            assert self.active() + len(self.idle) <= self.o.kv_blocks
            tick += timing.step(prompt, decoding, self.active() / self.o.kv_blocks)
            self.finish(to_seconds(tick))
