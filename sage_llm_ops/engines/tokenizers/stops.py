"""Where a text ends because of its stop strings: one rule for whole answers and for streams."""

from __future__ import annotations

from collections.abc import Sequence


def stop_at(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string begins that was complete first; None where there is none.

    An engine that looks after every token has ended there, and whoever streams cannot know of a
    longer one that would have begun earlier.
    """
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found)[1] if found else None
