"""How long a step takes.

The default coefficients are the polynomial of NVIDIA Dynamo's mocker (`ai-dynamo` 1.6, its
published vLLM-like timing model). A step that computes T prompt tokens (of all sequences together)
beside at least one decode costs `prefill(T) + decode(p)`: the parts are added, where a real
engine overlaps a little. Prompt tokens that the prefix cache gave are not in T.

Time is counted in whole ticks of 2^-26 s (15 ns). Whole numbers make k steps in one jump end
exactly where k steps one by one end, and a power of two makes ticks and float seconds convert
without rounding for the first four years of any clock; nanoseconds would not after 26 days.
"""

from __future__ import annotations

from typing import final

from sage_llm_ops.engines.sim.options import SimOptions

TICKS_PER_S = 1 << 26


def to_ticks(seconds: float) -> int:
    """The tick a moment lies in."""
    return int(seconds * TICKS_PER_S)


def to_seconds(ticks: int) -> float:
    """A tick's own moment; `to_ticks` of it gives the tick back."""
    return ticks / TICKS_PER_S


@final
class PolynomialTiming:
    """Step time as two polynomials; see the head of this file."""

    __slots__ = ("_decode", "_floor", "_prefill", "_ticks_per_ms", "switch")

    def __init__(self, options: SimOptions) -> None:
        self._prefill = options.prefill_ms
        self._decode = options.decode_ms
        self._floor = options.decode_floor_ms
        self._ticks_per_ms = TICKS_PER_S / 1000.0 / options.speed
        self.switch = round(options.switch_ms * self._ticks_per_ms)
        """Ticks to load another model."""

    def step(self, prefill_tokens: int, decoding: bool, kv_usage: float) -> int:
        """Ticks of one step; at least one, so that time always moves."""
        ms = 0.0
        if prefill_tokens:
            a, b, c = self._prefill
            ms = (a * prefill_tokens + b) * prefill_tokens + c
        if decoding:
            a, b, c = self._decode
            ms += max(self._floor, (a * kv_usage + b) * kv_usage + c)
        return max(1, round(ms * self._ticks_per_ms))
