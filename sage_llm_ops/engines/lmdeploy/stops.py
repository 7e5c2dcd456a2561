"""Stop strings. LMDeploy knows stop tokens only: a string that is not one token of the vocabulary its
engines have no word for, and its server passes over it. So we look for them in the text, with the
model's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from sage_llm_ops.engines.base import TextDecoder
from sage_llm_ops.types.requests import SamplingParams


class StopStrings:
    """Looks for the end of one answer."""

    def __init__(self, sampling: SamplingParams, decoder: TextDecoder) -> None:
        self._stops = sampling.stop
        self._not_before = sampling.min_tokens
        self._decoder = decoder
        self._reach = max(map(len, self._stops)) - 1
        """Characters of the past that a stop string may still begin in."""
        self._tail = ""
        self._seen = 0

    def found(self, ids: Sequence[int]) -> int | None:
        """How many of these tokens belong to the answer: those up to and with the one that completes
        a stop string. None where it goes on."""
        for count, token in enumerate(ids, 1):
            self._seen += 1
            if self._completes(self._decoder.push([token])) and self._seen > self._not_before:
                return count
        return None

    def _completes(self, fresh: str) -> bool:
        """Whether a stop string ends in the new text: one that was over before is none."""
        text, old = self._tail + fresh, len(self._tail)
        self._tail = text[-self._reach :] if self._reach else ""
        return any(text.find(stop, max(0, old - len(stop) + 1)) >= 0 for stop in self._stops)
