"""The simulated engine without input, output, clock or thread.

Whoever drives it says what time it is. Nothing depends on *when* it is asked: `submit` and `cancel`
first bring the engine to `now`, steps that end at `now` included, and a node that arrives in the
very tick in which a step starts still takes part in it. So the same submits and cancels, in the
same order and at the same times, give the same events however often `advance` is called between.

With `visible_tokens` off the engine jumps over steps that are alike. An arrival or a cancel in the
middle of a jump cuts it at the end of the step then in flight, which is where a step-by-step run
would have noticed it. A cancel takes effect at the end of the step in flight; that step's token of
the cancelled node is lost.
"""

from __future__ import annotations

from typing import final

from sage_llm_ops.engines.sim.admission import capabilities, to_sequence
from sage_llm_ops.engines.sim.cache import BlockPool
from sage_llm_ops.engines.sim.options import SimOptions
from sage_llm_ops.engines.sim.scheduler import Scheduler
from sage_llm_ops.engines.sim.sequence import SimSequence, State
from sage_llm_ops.engines.sim.shared import SharedScheduler
from sage_llm_ops.engines.sim.timing import PolynomialTiming, to_seconds, to_ticks
from sage_llm_ops.engines.sim.tokens import TokenStream, embedding
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import CapabilityError, IntegrityError, InvalidRequest
from sage_llm_ops.types.ids import NodeId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Stats, Tokens


@final
class SimCore:
    """One engine. Not thread-safe. Time does not go back: an earlier `now` counts as the latest."""

    def __init__(self, options: SimOptions) -> None:
        self.options = options
        self._visible = options.visible_tokens
        self._timing = None if options.timing == "instant" else PolynomialTiming(options)
        self._now = 0.0
        self.reset(0.0)

    def reset(self, now: float) -> None:
        """A crash: every node, the cache and what was not yet collected are gone."""
        self._now = max(self._now, now)
        self._tick = to_ticks(self._now)
        self.pool = BlockPool(self.options.kv_blocks)
        kind = SharedScheduler if self.options.models else Scheduler
        self.scheduler: Scheduler | SharedScheduler = kind(self.options, self.pool)
        self._nodes: dict[NodeId, SimSequence] = {}
        self._cancelled: list[SimSequence] = []
        self._out: list[tuple[float, EngineEvent]] = []
        self._start = 0
        self._length = 0
        """Ticks of one step of the jump in flight."""
        self._jump = 0
        """Steps in the jump in flight; 0: idle."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        return capabilities(self.options)

    @property
    def busy(self) -> bool:
        """Whether a node has not ended, or an event was not collected."""
        return bool(self._nodes or self._out)

    @property
    def stats(self) -> Stats:
        """How loaded it is, as of the last call with a time."""
        running, waiting = self.scheduler.running_and_waiting()
        return Stats(
            running=len(running),
            waiting=len(waiting),
            kv_usage=self.pool.active / self.pool.total,
            steps=self.scheduler.steps,
        )

    def submit(self, node: PlanNode, now: float) -> None:
        """Take a node; its own faults come out as `Failed`."""
        self._reach(now)
        if node.id in self._nodes:
            raise IntegrityError(f"node {node.id} was submitted twice to a sim engine")
        try:
            sequence = to_sequence(node, self.options)
        except (InvalidRequest, CapabilityError) as error:
            self._out.append((self._now, Failed(node.id, error.code, str(error))))
            return
        self._out.append((self._now, Accepted(node.id)))
        if self._timing is None:
            self._run_at_once(sequence)
            return
        self._nodes[node.id] = sequence
        self.scheduler.add(sequence)
        if not self._jump:
            self._plan(self._tick)
        elif self._start == self._tick:
            self.scheduler.admit()
            self._launch(self._start)
        elif self._jump > 1:
            self._jump = min(self._jump, self.scheduler.quiet())

    def cancel(self, node: NodeId, now: float) -> None:
        """Stop a node; unknown or ended ones are none of our business."""
        self._reach(now)
        sequence = self._nodes.get(node)
        if sequence is None or sequence.cancelled:
            return
        if sequence.state is State.WAITING:
            self._end(sequence, "cancelled", self._now)
        else:
            sequence.cancelled = True
            self._cancelled.append(sequence)
        # Either way the next step may be another one: who stood behind it may come in now.
        self._jump = min(self._jump, 1)

    def advance(self, now: float) -> list[tuple[float, EngineEvent]]:
        """What has happened up to and including `now` and was not collected, in order."""
        if now > self._now:
            self._now = now
            self._tick = to_ticks(now)
        self._complete_due()
        out, self._out = self._out, []
        return out

    def next_wake(self) -> float | None:
        """When to call `advance` again if nothing else is called before; None: never.

        Never late. Early (the call then brings no event) only where a jump ends invisibly: after
        an incomplete prompt chunk, or where a decode takes another block.
        """
        if self._out:
            return self._out[0][0]
        return to_seconds(self._start + self._jump * self._length) if self._jump else None

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where the parts disagree with each other."""
        self.scheduler.check_integrity()
        running, waiting = self.scheduler.running_and_waiting()
        self.pool.check_integrity((s.held, s.private) for s in running)
        held = [*running, *waiting]
        if {s.node.id for s in held} != set(self._nodes):
            raise IntegrityError("sim core: the nodes are not those that run or wait")
        if bool(held) != bool(self._jump):
            raise IntegrityError("sim core: nodes without a step in flight, or the reverse")
        if any(a[0] > b[0] for a, b in zip(self._out, self._out[1:], strict=False)):
            raise IntegrityError("sim core: events out of order")

    def _run_at_once(self, sequence: SimSequence) -> None:
        keys, size = sequence.keys, self.options.block_size
        found = 0
        if keys:
            found = min(self.pool.match(keys), (sequence.prompt - 1) // size)
            held = list(keys[:found])
            self.pool.take(held, len(keys) - found)
            self.pool.publish(keys[found:], held)
            self.pool.release(held, len(keys) - len(held))
        sequence.cached = found * size
        sequence.made = sequence.out
        if sequence.out:
            count = sequence.out if self._visible else 1
            self._emit(sequence, 0, count, self._now)
        self._out.append((self._now, self._done(sequence, sequence.reason)))

    def _reach(self, now: float) -> None:
        """Bring the engine to `now`, to inside a jump where one is in flight."""
        if now > self._now:
            self._now = now
            self._tick = to_ticks(now)
        self._complete_due()
        if self._jump > 1:
            passed = (self._tick - self._start) // self._length
            if passed:
                self.scheduler.finish(passed)
                self._start += passed * self._length
                self._jump -= passed

    def _complete_due(self) -> None:
        while self._jump:
            end = self._start + self._jump * self._length
            if end > self._tick:
                return
            self._complete(end)
            self._plan(end)

    def _plan(self, tick: int) -> None:
        if self.scheduler.plan():
            self._launch(tick)
            return
        self._jump = 0
        if self.scheduler.running_and_waiting()[1]:
            raise IntegrityError("sim core: nothing runs and whoever waits does not fit")

    def _launch(self, tick: int) -> None:
        scheduler, pool = self.scheduler, self.pool
        turn = scheduler.turn
        assert self._timing is not None
        self._start = tick
        self._length = self._timing.step(
            turn.prefill_tokens, turn.decoding > 0, pool.active / pool.total
        )
        if scheduler.switched:
            self._length += self._timing.switch
        self._jump = 1 if self._visible or scheduler.switched else scheduler.quiet()

    def _complete(self, end: int) -> None:
        """The jump in flight is over: report what it made."""
        now, scheduler = to_seconds(end), self.scheduler
        if self._cancelled:
            for sequence in self._cancelled:
                self._end(sequence, "cancelled", now)
            self._cancelled.clear()
        turn = scheduler.turn
        if self._visible and turn.decoding:
            for sequence in turn.running.values():
                if sequence.state is State.DECODE:
                    self._emit(sequence, sequence.made + turn.steps - sequence.base, 1, now)
        ended, complete = scheduler.finish(self._jump)
        for sequence in ended:
            self._end(sequence, sequence.reason, now)
        for sequence in complete:
            if sequence.out and (self._visible or sequence.made == 1):
                self._emit(sequence, sequence.made - 1, 1, now)
            if sequence.made == sequence.out:
                self._end(sequence, sequence.reason, now)

    def _emit(self, sequence: SimSequence, made: int, count: int, now: float) -> None:
        node = sequence.node
        if sequence.ids is not None:
            ids = sequence.ids[made : made + count]
        else:
            if sequence.stream is None:
                sequence.stream = TokenStream(node, self.options.vocab_size)
            ids = sequence.stream.take(count)
        self._out.append((now, Tokens(node.id, node.offset + made, ids, sequence.cached)))

    def _end(self, sequence: SimSequence, reason: str, now: float) -> None:
        del self._nodes[sequence.node.id]
        self.scheduler.end(sequence)
        self._out.append((now, self._done(sequence, reason)))

    def _done(self, sequence: SimSequence, reason: str) -> Done:
        node = sequence.node
        vector = None
        if node.task == "embed" and reason != "cancelled":
            vector = embedding(node, self.options.embedding_dim)
        return Done(node.id, reason, node.n_tokens, sequence.made, max(0, sequence.cached), vector)
