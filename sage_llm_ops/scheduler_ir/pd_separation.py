"""Whether a request's prefill and decode run apart, and why.

Apart, a prompt no longer stalls the decodes of the worker it lands on; the price is moving its KV.
Short prompts, answers of one token, embeddings and continued attempts always stay whole, and so
does everything where no pool of prefilling and decoding workers that can hand KV over has room.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple
from zlib import crc32

import msgspec

from sage_llm_ops.cost_model import Link
from sage_llm_ops.scheduler_ir.narrowing import DECODING, PREFILLING, for_kind
from sage_llm_ops.scheduler_ir.routing.base import Rows
from sage_llm_ops.scheduler_ir.routing.held import held
from sage_llm_ops.scheduler_ir.routing.predicted_latency import prefill_of
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView

WHOLE, APART = ("fused",), ("prefill", "decode")
NO_POOL = "no_split_pool"
NO_TRANSFER = "no_kv_transfer: the pool's workers cannot hand KV over"
UNPOOLED = (NO_POOL, NO_TRANSFER)


class SeparatorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`threshold`: prompts of fewer tokens are never split. `share`: of the policy `hash`."""

    threshold: int = 800
    share: float = 0.5
    kv_bytes_per_token: int = 131_072
    link_latency_ms: float = 1.0
    link_gb_per_s: float = 25.0

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold={self.threshold} must be 0 or more")
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share={self.share!r} must be between 0 and 1")
        if self.kv_bytes_per_token < 1:
            raise ValueError(f"kv_bytes_per_token={self.kv_bytes_per_token} must be at least 1")
        if not (self.link_latency_ms >= 0.0 and self.link_gb_per_s > 0.0):
            raise ValueError(
                f"link_latency_ms={self.link_latency_ms!r} must be 0 or more and "
                f"link_gb_per_s={self.link_gb_per_s!r} above 0"
            )


class Split(NamedTuple):
    """The kinds of a plan's nodes, in order, and why; how long the KV is on its way between them."""

    kinds: tuple[str, ...]
    reason: str
    transfer_ms: float = 0.0
    pooled: bool = False
    """Whether the instances' roles count: without a split they would only leave workers idle."""


OFF = Split(WHOLE, "pd_off")


class Pools(NamedTuple):
    """Rows with room."""

    whole: Rows
    prefill: Rows
    decode: Rows


class PDSeparator(ABC):
    """Decides for one offer after the other; keeps nothing."""

    name: ClassVar[str]

    def __init__(self, options: SeparatorOptions | None = None) -> None:
        self.options = options or SeparatorOptions()
        self.link = Link(self.options.link_latency_ms, self.options.link_gb_per_s)

    def split(self, offer: Offer, fleet: FleetView) -> Split:
        """The plan's shape for this request."""
        pools, why = self._pools(offer, fleet)
        if pools is None:
            return Split(WHOLE, why, pooled=why not in UNPOOLED)
        transfer = self.link.transfer_ms(
            offer.job.request.n_prompt * float(self.options.kv_bytes_per_token)
        )
        apart, reason = self.wants(offer, fleet, pools, transfer)
        if apart:
            return Split(APART, reason, transfer, pooled=True)
        return Split(WHOLE, reason, pooled=True)

    @abstractmethod
    def wants(
        self, offer: Offer, fleet: FleetView, pools: Pools, transfer_ms: float
    ) -> tuple[bool, str]:
        """Whether to split what could be split, and why."""

    def _pools(self, offer: Offer, fleet: FleetView) -> tuple[Pools | None, str]:
        """None and the reason where it cannot be split."""
        job, traits = offer.job, fleet.traits
        request = job.request
        if not traits.pools:
            return None, NO_POOL
        serving = fleet.serving(job.needs)
        roles = traits.role[serving]
        for role in (PREFILLING, DECODING):
            pool = serving[roles == role]
            if not pool.size:
                return None, NO_POOL
            if not traits.splits[pool].any():
                return None, NO_TRANSFER
        if request.task != "generate" or request.max_tokens < 2:
            return None, "one_step"
        if job.delivered or job.attempt:
            return None, "continued"
        if request.n_prompt < self.options.threshold:
            return None, f"short: {request.n_prompt} tokens, threshold {self.options.threshold}"
        free = fleet.with_room(job.needs, job.excluded)
        able = free[traits.splits[free]]
        prefill = for_kind(fleet, able, "prefill")
        decode = for_kind(fleet, able, "decode")
        if not (prefill.size and decode.size):
            return None, "no_room_in_pool"
        return Pools(for_kind(fleet, free, "fused"), prefill, decode), ""


class PDNever(PDSeparator):
    """Prefill and decode stay together on one worker."""

    name: ClassVar[str] = "never"

    def split(self, offer: Offer, fleet: FleetView) -> Split:
        return OFF

    def wants(
        self, offer: Offer, fleet: FleetView, pools: Pools, transfer_ms: float
    ) -> tuple[bool, str]:
        return False, "pd_off"


class PDAlways(PDSeparator):
    """Whatever can be split is."""

    name: ClassVar[str] = "always"

    def wants(
        self, offer: Offer, fleet: FleetView, pools: Pools, transfer_ms: float
    ) -> tuple[bool, str]:
        return True, "always"


class PDThreshold(PDSeparator):
    """The length alone: at `threshold` and above it is split."""

    name: ClassVar[str] = "threshold"

    def wants(
        self, offer: Offer, fleet: FleetView, pools: Pools, transfer_ms: float
    ) -> tuple[bool, str]:
        n, limit = offer.job.request.n_prompt, self.options.threshold
        return True, f"{n} tokens, threshold {limit}"


class PDHash(PDSeparator):
    """A fixed share, drawn by the request's id: for comparing both ways under the same load."""

    name: ClassVar[str] = "hash"

    def wants(
        self, offer: Offer, fleet: FleetView, pools: Pools, transfer_ms: float
    ) -> tuple[bool, str]:
        drawn = crc32(offer.job.request.id.encode()) / 2**32
        return drawn < self.options.share, f"drew {drawn:.2f} of {self.options.share:g}"


class PDAdaptive(PDSeparator):
    """Break-even in milliseconds.

        together  queue + prefill, and that prefill once more for every decode it stalls
        apart     queue + prefill on a prefilling worker, and the transfer

    each at its best worker. Decoding itself costs about the same either way and is left out.
    """

    name: ClassVar[str] = "adaptive"

    def wants(
        self, offer: Offer, fleet: FleetView, pools: Pools, transfer_ms: float
    ) -> tuple[bool, str]:
        together = float(_prefill(offer, fleet, pools.whole, disturbs=True).min())
        apart = float(_prefill(offer, fleet, pools.prefill, disturbs=False).min()) + transfer_ms
        sides = (
            f"{apart:.1f} ms apart ({transfer_ms:.1f} of it transfer), {together:.1f} ms together"
        )
        return apart < together, sides


def _prefill(offer: Offer, fleet: FleetView, rows: Rows, *, disturbs: bool) -> Any:
    """Milliseconds until the first token, with those that its prefill costs others."""
    length = offer.job.request.n_prompt
    there: Any = 0
    if offer.hits:
        there = held(offer, fleet, rows).clip(max=length - 1)
    prefill = prefill_of(fleet.traits.ms[:, rows], length - there, there)
    disturbed = fleet.running[rows] if disturbs else 0
    return fleet.work_us[rows] * 1e-3 + prefill * (1 + disturbed)


SPLITTERS: dict[str, type[PDSeparator]] = {
    kind.name: kind for kind in (PDNever, PDAlways, PDThreshold, PDHash, PDAdaptive)
}
