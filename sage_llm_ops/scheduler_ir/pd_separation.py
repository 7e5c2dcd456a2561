"""Whether a request's prefill and decode run apart. One answer exists so far: never."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from sage_llm_ops.types.events import Offer


class Split(NamedTuple):
    """The kinds of a plan's nodes, in order, and why."""

    kinds: tuple[str, ...]
    reason: str


class PDNever:
    """Prefill and decode stay together on one worker."""

    name: ClassVar[str] = "never"

    def split(self, offer: Offer) -> Split:
        """The plan's shape for this request."""
        return Split(("fused",), "pd_off")


SPLITTERS: dict[str, type[PDNever]] = {"never": PDNever}
