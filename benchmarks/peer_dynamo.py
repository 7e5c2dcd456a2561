"""Dynamo's `SelectionService` (ai-dynamo-runtime, extra `bench`), on our prompts.

Its workers exist by name only: it subscribes to KV events at addresses where nobody listens, as ours
are given prefix hits without an engine. Prompts are given as hashes, so that neither side hashes.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

HELD = 64


def rate(prompts: list[list[int]], *, workers: int, block: int) -> float | None:
    """Its decisions per second, each with the release of an older one; None where it is not
    installed."""
    os.environ.setdefault("DYN_LOG", "error")
    try:
        from dynamo._core import SelectionService
    except ImportError:
        return None
    return asyncio.run(_rate(SelectionService(indexer_threads=1), prompts, workers, block))


async def _rate(service: Any, prompts: list[list[int]], workers: int, block: int) -> float:
    for number in range(workers):
        await service.upsert_worker(
            {
                "worker_id": number,
                "model_name": "m",
                "block_size": block,
                "endpoint": f"http://127.0.0.1:{61_000 + number}",
                "kv_events_endpoints": {0: f"tcp://127.0.0.1:{62_000 + number}"},
                "total_kv_blocks": 16_384,
                "max_num_batched_tokens": 8_192,
            }
        )
    asked = [
        {
            "model_name": "m",
            "selection_id": f"r{number}",
            "sequence_hashes": hashes,
            "block_hashes": hashes,
            "isl_tokens": block * len(hashes),
        }
        for number, hashes in enumerate(prompts)
    ]
    began = time.perf_counter()
    for number, request in enumerate(asked):
        await service.select_and_reserve(request)
        if number >= HELD:
            await service.free_reservation(f"r{number - HELD}")
    spent = time.perf_counter() - began
    service.shutdown()
    return len(asked) / spent
