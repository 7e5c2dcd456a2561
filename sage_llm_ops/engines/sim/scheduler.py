"""Which sequences take part in a step: continuous batching as vLLM's V1 scheduler does it.

A step serves what runs first (one token for each decode, the rest of a prompt in chunks), then
admits from the waiting queue in order, while there are places, budget and KV blocks. The whole
prompt's blocks are taken at admission (vLLM: `scheduler_reserve_full_isl`), so only decodes can run
out of blocks; then the youngest is preempted, loses its blocks and is computed again later.
Generated blocks are not entered in the prefix cache: a trace does not name them.

Nothing here depends on time. Every decode makes one token in every step, so a sequence's next
turning point (its end, or its next block) is a *step number* known in advance; a heap of those
makes a jump over many steps, and its cost, independent of how many sequences run.
"""

from __future__ import annotations

import sys
from collections import deque
from heapq import heappop, heappush
from typing import final

from sage_llm_ops.engines.sim.cache import BlockPool
from sage_llm_ops.engines.sim.options import SimOptions
from sage_llm_ops.engines.sim.sequence import SimSequence, State
from sage_llm_ops.types.errors import IntegrityError


@final
class Scheduler:
    """In the order of a step: `plan`, `admit` (again for late arrivals), `quiet`, `finish`."""

    def __init__(self, options: SimOptions, pool: BlockPool) -> None:
        self._options = options
        self._block_size = options.block_size
        self._max_seqs = options.max_num_seqs
        self.pool = pool
        self.waiting: deque[SimSequence] = deque()
        self.running: dict[int, SimSequence] = {}
        """By admission number, so oldest first."""
        self.prefilling: list[SimSequence] = []
        """Those computing prompt tokens in this step; only the last may remain incomplete."""
        self.decoding = 0
        self.steps = 0
        self.prefill_tokens = 0
        self.preemptions = 0
        self._budget = 0
        self._preempted = False
        self._growing: list[SimSequence] = []
        self._turns: list[tuple[int, int, SimSequence]] = []
        self._orders = 0
        self._blocked: tuple[SimSequence, int] | None = None
        self.places = sys.maxsize
        """How many may still come in; a limit only where models take turns (`shared.py`)."""
        self.switched = False
        """Never: there is one model."""

    @property
    def turn(self) -> Scheduler:
        """Whose step it is."""
        return self

    def add(self, sequence: SimSequence) -> None:
        """It waits to be let in."""
        self.waiting.append(sequence)

    def running_and_waiting(self) -> tuple[list[SimSequence], list[SimSequence]]:
        """Whoever is inside."""
        return list(self.running.values()), list(self.waiting)

    def plan(self) -> bool:
        """Compose the next step; False where there is nothing to do."""
        self._preempted = False
        self.prefill_tokens = 0
        if self._growing:
            self._grow()
        self._budget = self._options.max_num_batched_tokens - self.decoding
        for sequence in self.prefilling:
            self._next_chunk(sequence)
        self.admit()
        return bool(self.running)

    def _grow(self) -> None:
        """One more block for each decode whose last one is full."""
        for sequence in self._growing:
            while sequence.state is State.DECODE:
                if self.pool.take((), 1):
                    sequence.private += 1
                    self._set_turn(sequence)
                    break
                self._preempt(self.running[next(reversed(self.running))])
        self._growing.clear()

    def _preempt(self, victim: SimSequence) -> None:
        if victim.state is State.DECODE:
            victim.made += self.steps - victim.base
        self._remove(victim)
        victim.state = State.WAITING
        self.waiting.appendleft(victim)
        self.preemptions += 1
        self._preempted = True

    def _remove(self, sequence: SimSequence) -> None:
        """Out of the running set; its blocks go back."""
        del self.running[sequence.order]
        if sequence.state is State.DECODE:
            self.decoding -= 1
        else:
            self.prefilling.remove(sequence)
        self.pool.release(sequence.held, sequence.private)
        sequence.held = []
        sequence.private = 0

    def _next_chunk(self, sequence: SimSequence) -> None:
        chunk = min(sequence.total - sequence.computed, self._budget)
        sequence.chunk = chunk
        self._budget -= chunk
        self.prefill_tokens += chunk
        keys = sequence.keys
        if sequence.published < len(keys):
            # As vLLM does: shareable once scheduled, so that the next in this step finds them.
            full = min(len(keys), (sequence.computed + chunk) // self._block_size)
            before = len(sequence.held)
            self.pool.publish(keys[sequence.published : full], sequence.held)
            sequence.private -= len(sequence.held) - before
            sequence.published = full

    def admit(self) -> None:
        """Take in from the waiting queue. May be called again for the same step."""
        waiting = self.waiting
        while (
            waiting
            and self._budget > 0
            and not self._preempted
            and len(self.running) < self._max_seqs
            and self.places
        ):
            sequence = waiting[0]
            if self.is_blocked():
                return
            if not self._try_admit(sequence):
                self._blocked = (sequence, self.pool.version)
                return
            waiting.popleft()
            self.places -= 1

    def is_blocked(self) -> bool:
        """Whether the first in line did not fit, and nothing has happened since that could have
        made room."""
        blocked, first = self._blocked, self.waiting[0]
        return blocked is not None and blocked[0] is first and blocked[1] == self.pool.version

    def _try_admit(self, sequence: SimSequence) -> bool:
        total, size = sequence.prompt + sequence.made, self._block_size
        keys = sequence.keys
        # At least one token must be computed: its logits are the answer's first token.
        found = min(self.pool.match(keys), (total - 1) // size) if keys else 0
        held = list(keys[:found])
        new = -(-total // size) - found
        if not self.pool.take(held, new):
            return False
        sequence.held = held
        sequence.private = new
        sequence.published = found
        sequence.computed = found * size
        if sequence.cached < 0:
            sequence.cached = found * size
        self._orders += 1
        sequence.order = self._orders
        self.running[sequence.order] = sequence
        if sequence.arrives_full:
            sequence.arrives_full = False
            self._start_decode(sequence)
            return True
        sequence.state = State.PREFILL
        self.prefilling.append(sequence)
        self._next_chunk(sequence)
        return True

    def _start_decode(self, sequence: SimSequence) -> None:
        """It takes part in this very step as one of the decodes."""
        sequence.state = State.DECODE
        sequence.computed = sequence.total
        sequence.base = self.steps
        self.decoding += 1
        self._budget -= 1
        self._first_turn(sequence)

    def quiet(self) -> int:
        """How many steps from here are alike if nobody arrives or cancels; at least 1."""
        if self.prefilling:
            return 1
        if (
            self.waiting
            and len(self.running) < self._max_seqs
            and self.places
            and not self.is_blocked()
        ):
            return 1
        turns = self._turns
        while True:
            turn, order, sequence = turns[0]
            if sequence.order == order and sequence.state is State.DECODE:
                return turn - self.steps
            heappop(turns)

    def _set_turn(self, sequence: SimSequence) -> None:
        """Note the step number at which a decode ends or needs its next block."""
        made = sequence.made + self.steps - sequence.base
        room = sequence.blocks * self._block_size - (sequence.prompt + made - 1)
        turn = self.steps + min(room, sequence.out - made)
        heappush(self._turns, (turn, sequence.order, sequence))

    def finish(self, steps: int) -> tuple[list[SimSequence], list[SimSequence]]:
        """The planned step, and `steps` - 1 more like it, are over.

        Returns the decodes that ended and the sequences whose prompt is complete, oldest first; the
        latter have made their first token (since admission). Who is at its end stays until `end`.
        """
        self.steps += steps
        ended: list[SimSequence] = []
        turns, now = self._turns, self.steps
        while turns and turns[0][0] <= now:
            _, order, sequence = heappop(turns)
            if sequence.order != order or sequence.state is not State.DECODE:
                continue
            if sequence.made + now - sequence.base >= sequence.out:
                ended.append(sequence)
            else:
                self._growing.append(sequence)
        return ended, self._finish_prefill() if self.prefilling else []

    def _finish_prefill(self) -> list[SimSequence]:
        complete = []
        for sequence in self.prefilling:
            sequence.computed += sequence.chunk
            if sequence.computed < sequence.prompt + sequence.made:
                continue
            sequence.state = State.DECODE
            self.decoding += 1
            sequence.base = self.steps
            if sequence.out:
                sequence.made += 1
            complete.append(sequence)
            if sequence.made < sequence.out:
                self._first_turn(sequence)
        self.prefilling = [s for s in self.prefilling if s.state is State.PREFILL]
        return complete

    def _first_turn(self, sequence: SimSequence) -> None:
        room = sequence.blocks * self._block_size - (sequence.prompt + sequence.made - 1)
        if room:
            self._set_turn(sequence)
        else:
            self._growing.append(sequence)

    def end(self, sequence: SimSequence) -> None:
        """It ends here: out of the running set or the waiting queue."""
        if sequence.state is State.WAITING:
            self.waiting.remove(sequence)
        else:
            if sequence.state is State.DECODE:
                sequence.made += self.steps - sequence.base
            self._remove(sequence)
        sequence.state = State.ENDED

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where counts and lists disagree."""
        running = list(self.running.values())
        decoding = [s for s in running if s.state is State.DECODE]
        prefilling = [s for s in running if s.state is State.PREFILL]
        turning = {(s.order) for _, order, s in self._turns if s.order == order}
        turning.update(s.order for s in self._growing)
        if len(decoding) != self.decoding or prefilling != self.prefilling:
            raise IntegrityError("sim scheduler: running sequences and their counts disagree")
        if len(running) > self._max_seqs:
            raise IntegrityError(f"sim scheduler: {len(running)} running, at most {self._max_seqs}")
        if any(s.order not in turning for s in decoding):
            raise IntegrityError("sim scheduler: a decode has no turning point ahead")
        if any(s.blocks or s.state is not State.WAITING for s in self.waiting):
            raise IntegrityError("sim scheduler: a waiting sequence holds blocks")
