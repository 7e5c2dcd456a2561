"""How long one engine step takes: linear in what the step computes.

    ms = prefill (a + b·tokens + c·min(tokens, 512) + d·pairs) + decode (e + f·decodes + g·context)

`tokens` are prompt tokens computed in the step, over all its sequences; `pairs` the query-key pairs
of their attention, `new * (2 * cached + new)` summed over them; `c` the price of a prompt too short
to keep the device busy; `context` the tokens in the KV memory of the decodes. The prefill bracket
counts only where there is a prompt, the decode bracket where there is a decode. This is DistServe's
form (prefill a + b·sum(len) + c·sum(len²), decode a + b·sum(context) + c·batch) with the short term
added and both brackets in one step, as continuous batching runs them. Linear, so that it can be
learnt online (`rls.py`) and evaluated for a thousand workers at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sage_llm_ops.types.capabilities import STEP_SIZE

Coefficients = npt.NDArray[np.float64]
Row = npt.NDArray[np.float64]

FEATURES = ("prefill", "tokens", "short", "pairs", "decode", "decodes", "context")
SIZE = len(FEATURES)
assert SIZE == STEP_SIZE
SHORT = 512
"""Prompt tokens that fill the device of every worker measured so far."""
SCALES: Row = np.array([1.0, 1e3, 1e2, 1e7, 1.0, 1e2, 1e5])
"""Typical sizes of the features; learning is done in these units, or it would be ill-conditioned."""


class Step(NamedTuple):
    """What a step computed."""

    tokens: int = 0
    pairs: int = 0
    decodes: int = 0
    context: int = 0


def features(step: Step) -> Row:
    """In natural units, the order of `FEATURES`."""
    tokens, pairs, decodes, context = step
    return np.array(
        [
            float(tokens > 0),
            tokens,
            min(tokens, SHORT),
            pairs,
            float(decodes > 0),
            decodes,
            context,
        ],
        dtype=float,
    )


def pairs_of(new: int, cached: int = 0) -> int:
    """Query-key pairs, doubled, of `new` tokens behind `cached` ones."""
    return new * (2 * cached + new)


def step_ms(coefficients: Coefficients, step: Step) -> float:
    """Never negative: a fit may be, outside of what it has seen."""
    return max(0.0, float(np.dot(coefficients, features(step))))


def prefill_ms(coefficients: Coefficients, new: int, cached: int = 0) -> float:
    """A prompt of which `cached` tokens are there already, alone on the worker."""
    a, b, c, d, *_ = coefficients.tolist()
    if new <= 0:
        return 0.0
    ms: float = a + b * new + c * min(new, SHORT) + d * new * (2 * cached + new)
    return max(0.0, ms)


def decode_ms(coefficients: Coefficients, decodes: int, context: int) -> float:
    """One token for each of `decodes`, with so many tokens in KV memory together."""
    *_, e, f, g = coefficients.tolist()
    ms: float = e + f * decodes + g * context
    return max(0.0, ms) if decodes > 0 else 0.0
