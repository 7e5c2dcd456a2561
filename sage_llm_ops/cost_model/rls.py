"""Learns a worker class's coefficients from its steps as they happen.

Recursive least squares on the *relative* error (a step of 5 ms counts as much as one of 500), with
slow forgetting. Alternatives refused: a window of samples refitted now and then (jumps, and keeps
rows), gradient descent (a rate to tune per worker).

The guard: a step that is far off what the model and its usual error say (a page fault, a paused
machine) moves the coefficients no more than an ordinary surprise would. So many of them in a row,
all to one side, are no accident: the worker has changed, and what was learnt is opened again.
"""

from __future__ import annotations

from collections import deque
from math import inf
from statistics import median
from typing import Annotated, Any

import msgspec
import numpy as np

from sage_llm_ops.cost_model.step import SCALES, SIZE, Coefficients, Row
from sage_llm_ops.types.errors import ConfigError

FORGET = 0.998
FIRM, OPEN = 0.05, 10.0
"""Variance at the start, with a prior and without one, in units of the scaled coefficients."""
FAR = 4.0
"""Times the usual error from which a step is an outlier."""
CHANGED_AFTER = 12
REMEMBERED = 128
LEAST_MS = 0.01
"""A shorter step is counted as one of so long: on relative errors it would outweigh all others."""
MOST = 1e18
"""Query-key pairs of a billion tokens; more is no count, and squared it would leave a float's range."""


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a learner knows, as plain values."""

    w: list[float]
    p: list[Annotated[list[float], msgspec.Meta(min_length=SIZE, max_length=SIZE)]]
    usual: float
    side: int
    seen: int
    outliers: int
    known: bool
    errors: list[float]


class Learner:
    """One worker class. Deterministic: the same steps in the same order give the same numbers."""

    def __init__(self, prior: Coefficients | None = None) -> None:
        self._w: Row = np.zeros(SIZE) if prior is None else np.asarray(prior, float) * SCALES
        self._start = OPEN if prior is None else FIRM
        self._known = prior is not None
        self._p = np.diag(self._spread())
        self._usual = 0.2
        self._side = 0
        self.seen = 0
        self.outliers = 0
        self._errors: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def coefficients(self) -> Coefficients:
        """As `step.py` takes them."""
        return self._w / SCALES

    @property
    def known(self) -> bool:
        """Whether it knows anything: it has a prior or has seen enough."""
        return self._known or self.seen >= 2 * SIZE

    @property
    def error(self) -> float | None:
        """Median relative error of its latest predictions, each made before its step was learnt."""
        errors = self._errors.copy()  # in one go: who asks may be another thread than who learns
        return median(errors) if errors else None

    def learn(self, x: Row, ms: float) -> None:
        """One step: its features and how long it took. What no step can be is left out."""
        if not (0.0 < ms < inf and x.min() >= 0.0 and 0.0 < x.max() <= MOST):
            return
        self.seen += 1
        scaled = x / SCALES / max(ms, LEAST_MS)
        error = 1.0 - float(self._w @ scaled)
        self._errors.append(abs(error))
        taken = self._guarded(error)
        gain = self._p @ scaled
        spread = float(scaled @ gain)
        forget = FORGET if self._p.trace() < SIZE * OPEN else 1.0
        gain /= forget + spread
        self._w = self._w + gain * taken
        self._p = (self._p - np.outer(gain, scaled @ self._p)) / forget

    def _guarded(self, error: float) -> float:
        """The error, cut to an ordinary one where it is far off."""
        size = abs(error)
        limit = FAR * max(self._usual, 0.02)
        if size <= limit or self.seen <= 2 * SIZE:
            self._side = 0
            self._usual += 0.05 * (min(size, 1.0) - self._usual)
            return error
        self.outliers += 1
        side = 1 if error > 0 else -1
        self._side = self._side + side if self._side * side >= 0 else side
        if abs(self._side) >= CHANGED_AFTER:
            self._side, self._usual = 0, min(size, 1.0)
            self._p = np.diag(self._spread(OPEN))
            return error
        return limit if error > 0 else -limit

    def _spread(self, start: float | None = None) -> Row:
        """How far each coefficient may be from where it stands: in proportion to its size."""
        base = self._start if start is None else start
        return base * np.maximum(1.0, self._w * self._w)

    def state(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "w": self._w.tolist(),
            "p": self._p.tolist(),
            "usual": self._usual,
            "side": self._side,
            "seen": self.seen,
            "outliers": self.outliers,
            "known": self._known,
            "errors": list(self._errors),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Learner:
        """The one whose `state` this was; `ConfigError` where it is none."""
        try:
            kept = msgspec.convert(state, Kept)
        except msgspec.ValidationError as error:
            raise ConfigError(f"no state of a cost model's class: {error}") from None
        made = cls()
        made._w, made._p = np.array(kept.w), np.array(kept.p, dtype=float)
        for name, array, shape in (("w", made._w, (SIZE,)), ("p", made._p, (SIZE, SIZE))):
            if array.shape != shape or not np.isfinite(array).all():
                raise ConfigError(
                    f"no state of a cost model's class: {name} must be {shape} finite numbers, "
                    f"and has the shape {array.shape}"
                )
        made._usual, made._side, made._known = kept.usual, kept.side, kept.known
        made.seen, made.outliers = kept.seen, kept.outliers
        made._errors.extend(kept.errors)
        return made
