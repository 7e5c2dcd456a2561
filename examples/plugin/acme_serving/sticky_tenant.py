"""A routing: a tenant's requests on the same worker, while it has room."""

from __future__ import annotations

import zlib
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sage_llm_ops.scheduler_ir import Choice, Routing
from sage_llm_ops.types.events import Offer
from sage_llm_ops.types.protocols import FleetView


class StickyTenant(Routing):
    """Rendezvous hashing: a worker that joins or leaves moves only its share of the tenants.

    CRC and not `hash()`: the same in every process, so a replay decides the same.
    """

    name: ClassVar[str] = "sticky_tenant"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "hash of tenant and worker"

    def choose(self, offer: Offer, fleet: FleetView, rows: npt.NDArray[np.intp]) -> Choice:
        tenant = offer.job.request.tenant
        costs = np.array([_hash(tenant, fleet.ids[row]) for row in rows], dtype=np.float64)
        return Choice(int(rows[costs.argmin()]), costs, f"tenant {tenant!r} lives there")


def _hash(tenant: str, worker: str) -> int:
    return zlib.crc32(f"{tenant}@{worker}".encode())
