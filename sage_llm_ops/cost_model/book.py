"""The plane's cost model: one learner per worker class. Written by Observe alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sage_llm_ops.cost_model.priors import prior
from sage_llm_ops.cost_model.rls import Learner
from sage_llm_ops.cost_model.step import Coefficients, Step, features

ALONE = (1, 1, 1)


class WorkerClass(NamedTuple):
    """Workers of one class are expected to be equally fast."""

    hardware: str
    model: str
    engine: str
    tensor_parallel: int = 1
    ranks: tuple[int, int, int] = ALONE
    """Pipeline, data and expert parallelism."""

    def __str__(self) -> str:
        more = () if self.ranks == ALONE else ("x".join(map(str, self.ranks)),)
        return "|".join(str(part) for part in (*self[:4], *more))


class CostBook:
    """Coefficients by worker class: the prior's until steps were seen, then what those taught."""

    def __init__(self) -> None:
        self._learners: dict[str, Learner] = {}
        self.version = 0
        """Moves with every step learnt: who keeps coefficients knows when they are old."""

    def open(self, kind: WorkerClass, given: Coefficients | None = None) -> None:
        """Know a class; `given` is what its workers say of themselves, and beats the tables."""
        if str(kind) in self._learners:
            return
        if given is None and kind.ranks == ALONE:  # the tables know of no others
            found = prior(kind.hardware, kind.model, kind.tensor_parallel)
            given = None if found is None else found.coefficients
        self._learners[str(kind)] = Learner(given)
        self.version += 1

    def learn(self, kind: WorkerClass, steps: Iterable[tuple[Step, float]]) -> None:
        """Steps of one worker of the class, in their order, with their milliseconds."""
        self.open(kind)
        learner = self._learners[str(kind)]
        for step, ms in steps:
            learner.learn(features(step), ms)
            self.version += 1

    def coefficients(self, kind: WorkerClass) -> Coefficients | None:
        """None while nothing is known."""
        learner = self._learners.get(str(kind))
        return learner.coefficients if learner is not None and learner.known else None

    def report(self) -> list[dict[str, Any]]:
        """One plain row a class: what it has seen and how far off it was lately. From any thread."""
        return [
            {
                "class": name,
                "steps": learner.seen,
                "outliers": learner.outliers,
                "median_error": learner.error,
                "coefficients": learner.coefficients.tolist(),
            }
            for name, learner in self._learners.copy().items()
        ]

    def state(self) -> dict[str, Any]:
        """Everything, as plain values: what a next run may start from."""
        return {name: learner.state() for name, learner in self._learners.items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> CostBook:
        """The one whose `state` this was."""
        made = cls()
        made._learners = {name: Learner.from_state(kept) for name, kept in state.items()}
        return made
