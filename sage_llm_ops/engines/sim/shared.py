"""Several models on one simulated engine, taking turns at the granularity of tokens.

After Aegaeon (SOSP'25). One model is loaded at a time. Its turn: the prompts that wait for it are
computed together, at most `group_size` of them, then its batch decodes `round_steps` times its
weight; then the next model that has work is loaded, which costs `switch_ms` in the step that
follows. A model that is alone with its work goes on without a switch.

All share one KV memory, so what is decoding when its model's turn ends goes on where it was.
Whoever finds no memory in its turn is let in before anybody else takes more.
"""

from __future__ import annotations

import sys
from typing import final

from sage_llm_ops.engines.sim.cache import BlockPool
from sage_llm_ops.engines.sim.options import SimOptions
from sage_llm_ops.engines.sim.scheduler import Scheduler
from sage_llm_ops.engines.sim.sequence import SimSequence, State
from sage_llm_ops.types.errors import IntegrityError


@final
class SharedScheduler:
    """As `Scheduler`, over one of them for each model; `turn` is the one whose step it is."""

    def __init__(self, options: SimOptions, pool: BlockPool) -> None:
        self._group = options.group_size
        self._models = list(options.models)
        self._parts = {model: Scheduler(options, pool) for model in self._models}
        self._quota = {
            model: max(1, round(options.round_steps * weight))
            for model, weight in options.models.items()
        }
        self._at = 0
        self._loaded = 0
        self._used = 0
        """Decode steps of this turn."""
        self._starved: SimSequence | None = None
        """Its turn came and there was no memory for it."""
        self.switched = False
        """Whether another model had to be loaded for the planned step."""
        self._open()

    @property
    def turn(self) -> Scheduler:
        """Of the model whose step it is."""
        return self._parts[self._models[self._at]]

    @property
    def steps(self) -> int:
        """Of all models together."""
        return sum(part.steps for part in self._parts.values())

    @property
    def preemptions(self) -> int:
        """Of all models together."""
        return sum(part.preemptions for part in self._parts.values())

    def add(self, sequence: SimSequence) -> None:
        """It waits for its model's turn; whose turn it is takes its group and no more."""
        part = self._of(sequence)
        part.add(sequence)
        if part is not self.turn:
            self.turn.places = min(self.turn.places, self._group)

    def running_and_waiting(self) -> tuple[list[SimSequence], list[SimSequence]]:
        """Whoever is inside."""
        found = [part.running_and_waiting() for part in self._parts.values()]
        return [s for running, _ in found for s in running], [s for _, w in found for s in w]

    def plan(self) -> bool:
        """Compose the next step; False where there is nothing to do."""
        if self._is_over() and self._others_want():
            self._next()
        self.switched = False
        for _ in range(len(self._models) + 1):  # whose turn it was may have used up its places
            turn = self.turn
            if not self._others_want():
                turn.places = sys.maxsize
            found = turn.plan()
            if self._starved is None and turn.places and turn.waiting and turn.is_blocked():
                self._starved = turn.waiting[0]
            if found:
                self.switched = self._at != self._loaded
                self._loaded = self._at
                return True
            self._next()
        return False

    def admit(self) -> None:
        """Late arrivals for the planned step."""
        self.turn.admit()

    def quiet(self) -> int:
        """How many steps from here are alike: no further than to the end of this turn, if anybody
        waits for it."""
        steps = self.turn.quiet()
        if self._others_want():
            steps = min(steps, max(1, self._limit - self._used))
        return steps

    def finish(self, steps: int) -> tuple[list[SimSequence], list[SimSequence]]:
        """The planned step, and `steps` - 1 more like it, are over."""
        if not self.turn.prefill_tokens:
            self._used += steps
        return self.turn.finish(steps)

    def end(self, sequence: SimSequence) -> None:
        """It ends here, whether or not it is its model's turn."""
        self._of(sequence).end(sequence)

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where counts and lists disagree."""
        for model, part in self._parts.items():
            part.check_integrity()
            running, waiting = part.running_and_waiting()
            if any(s.node.model != model for s in (*running, *waiting)):
                raise IntegrityError(f"shared sim: a request of another model stands at {model!r}")

    @property
    def _limit(self) -> int:
        return self._quota[self._models[self._at]]

    def _of(self, sequence: SimSequence) -> Scheduler:
        return self._parts[sequence.node.model]

    def _is_over(self) -> bool:
        return self._used >= self._limit and not self.turn.prefilling

    def _others_want(self) -> bool:
        turn = self.turn
        return any(
            part is not turn and (part.running or part.waiting) for part in self._parts.values()
        )

    def _next(self) -> None:
        self._at = (self._at + 1) % len(self._models)
        self._used = 0
        self._open()

    def _open(self) -> None:
        """A turn begins: so many may come in."""
        starved = self._starved
        if starved is not None and starved.state is not State.WAITING:
            starved = self._starved = None
        shut = starved is not None and self._of(starved) is not self.turn
        self.turn.places = 0 if shut else self._group
