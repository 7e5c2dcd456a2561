"""What a request is expected to take, from what the workers that could get it are known to do."""

from __future__ import annotations

from sage_llm_ops.cost_model.step import SHORT
from sage_llm_ops.fleet import Fleet
from sage_llm_ops.types.ids import Needs
from sage_llm_ops.types.requests import Request

_FRESH_FOR = 64
"""Estimates between two looks at the load: it decides about tens of per cent, not about an order."""
Pace = tuple[float, ...]


class FleetOutlook:
    """`Outlook` of a graph. The pace of decodes is that of the batches which run just now."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._paces: dict[tuple[Needs, bool], Pace] = {}
        self._version = -1
        self._calls = 0
        self.stretch = 1.0
        """What requests take, over what the steps say: batches grow while one runs, and prefills
        come in between."""

    def service_s(self, request: Request, delivered: int, *, cheapest: bool = False) -> float:
        """Prefill of the prompt and its decodes, at the mean speed of the workers for it."""
        self._calls += 1
        if self._version != self._fleet.version or self._calls >= _FRESH_FOR:
            self._paces.clear()
            self._version, self._calls = self._fleet.version, 0
        key = ((request.model, request.task, request.pin), cheapest)
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = self._pace(*key)
        a, b, c, d, decode, per_token = pace
        n = request.n_prompt + delivered
        ms = a + b * n + c * min(n, SHORT) + d * n * n
        if request.task == "generate":
            out = request.max_tokens - delivered
            ms += out * (decode + per_token * (n + 0.5 * out))
        return self.stretch * max(0.0, ms) / 1e3

    def took(self, request: Request, seconds: float) -> None:
        """The ratio of what was and what is expected now, as a slow average, cut to a factor of 8."""
        expected = self.service_s(request, 0) / self.stretch
        if expected > 0.0:
            ratio = min(8.0, max(0.125, seconds / expected))
            self.stretch += 0.02 * (ratio - self.stretch)

    def _pace(self, needs: Needs, cheapest: bool) -> Pace:
        fleet, traits = self._fleet, self._fleet.traits
        rows = fleet.serving(needs)
        if not rows.size:
            a, b, c, d, e, f, g = traits.rough()
            return (a, b, c, d, e + f, g)
        if cheapest:
            price = traits.price[rows]
            rows = rows[price == price.min()]
        a, b, c, d, e, f, g = traits.ms[:, rows].mean(axis=1).tolist()
        others, tokens = float(fleet.running[rows].mean()), float(fleet.tokens[rows].mean())
        return (a, b, c, d, e + f * (1.0 + others) + g * tokens, g)
