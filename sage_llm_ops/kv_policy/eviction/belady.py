"""The offline optimum: evict what is used again latest (Belady's MIN). A bound, not a policy."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from sage_llm_ops.types.kv import BlockKey


def belady_hits(keys: Sequence[BlockKey], capacity: int) -> int:
    """Hits of the whole stream where every miss is inserted; no online policy has more.

    O(n log n). The heap keeps an entry for each use of a resident block, latest next use first;
    those of uses that have passed can only be too early, so the top one is always the present one.
    """
    never = len(keys)
    following: list[int] = [never] * never
    seen: dict[BlockKey, int] = {}
    for index in range(never - 1, -1, -1):
        following[index] = seen.get(keys[index], never)
        seen[keys[index]] = index
    resident: set[BlockKey] = set()
    heap: list[tuple[int, int]] = []
    hits = 0
    for index, key in enumerate(keys):
        if key in resident:
            hits += 1
        else:
            if len(resident) >= capacity:
                resident.remove(keys[heappop(heap)[1]])
            resident.add(key)
        heappush(heap, (-following[index], index))
    return hits
