"""Numbered batches into their order, gaps healed by replay. No socket and no clock.

A publisher numbers its batches from 0 and keeps the latest for whoever asks. Batches come live, or as
the answer to a question; both may overlap. A publisher that begins anew under the same address counts
from 0 again and says nothing about it. So a question begins one before what is missing: if that batch
is another one now than the one that was taken, everything is.
"""

from __future__ import annotations

from typing import NamedTuple, final

MAX_HELD = 10_000
"""Batches that wait for a gap in front of them; beyond that the gap is given up."""


class Next(NamedTuple):
    """The next batch in order; without payload: forget what was told, `number` comes next."""

    number: int
    payload: bytes | None


@final
class Sequence:
    """Of one publisher.

    `live` and `replayed` take what came and give what is next, in order. `asking` is the number from
    which to ask for a replay, None where nothing is missing; `answered` says that an answer has ended
    (or will not come), and gives up what it did not bring. `reconnected` says that somebody else may
    be publishing now.
    """

    def __init__(self) -> None:
        self.next = 0
        self.asking: int | None = 0
        """At first everything: what came before we listened."""
        self.duplicates = self.lost = self.restarts = 0
        self._held: dict[int, bytes] = {}
        self._live = -1
        """Number of the latest that came live; a publisher only ever counts up."""
        self._last = b""
        """The batch before `next`."""
        self._doubt = False
        """Whether it still has to be seen again before anything else is believed."""
        self._ignore = False
        """Whether the rest of the answer under way is to a question that means nothing any more."""

    def live(self, number: int, payload: bytes) -> list[Next]:
        """A batch as it was published."""
        out: list[Next] = []
        if number <= self._live:
            self.restarts += 1
            self._held.clear()
            self._ignore = self.asking is not None
            out = self._anew()
        self._live = number
        return out + self._take(number, payload)

    def replayed(self, number: int, payload: bytes) -> list[Next]:
        """A batch of the answer to our question."""
        if self._ignore:
            return []
        if not (self._doubt and number == self.next - 1):
            return self._take(number, payload)
        if payload == self._last:
            self._doubt = False
            return self._ready()
        self.restarts += 1
        self._held.clear()
        self._live, self._ignore = -1, True
        return self._anew()

    def answered(self) -> list[Next]:
        """The answer is over."""
        if self._ignore:
            self._ignore = False
            return []
        self.asking = None
        if self._doubt:  # the batch that would have told is not kept any more, or never was
            self.lost += 1
            return self._anew()
        out = self._ready()
        if not out and self._held:
            first = min(self._held)
            self.lost += first - self.next
            self.next = first
            out = [Next(first, None), *self._ready()]
        if self._held:
            self._ask()
        return out

    def reconnected(self) -> None:
        """The line was down. What waits behind a gap may be somebody else's; the answer brings it
        again where it is not."""
        self._ignore = self.asking is not None
        self._held.clear()
        self._ask()

    def _ask(self) -> None:
        self._doubt = self.next > 0
        self.asking = max(0, self.next - 1)

    def _anew(self) -> list[Next]:
        self.next, self.asking, self._doubt = 0, 0, False
        return [Next(0, None)]

    def _take(self, number: int, payload: bytes) -> list[Next]:
        if number < self.next or number in self._held:
            self.duplicates += 1
            return []
        self._held[number] = payload
        if number == self.next and not self._doubt:
            return self._ready()
        if self.asking is None:
            self._ask()
        return self.answered() if len(self._held) > MAX_HELD else []

    def _ready(self) -> list[Next]:
        out: list[Next] = []
        while self.next in self._held:
            self._last = self._held.pop(self.next)
            out.append(Next(self.next, self._last))
            self.next += 1
        return out
