"""Dynamo's `SelectionService` (ai-dynamo-runtime, extra `bench`), on the same prompts and holders.

Its workers are KV-event publishers that tell it, in vLLM's form, who holds which beginnings; it is
asked before the clock starts whether it has understood that as we do. Prompts are given as hashes, so
that neither side hashes.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

from benchmarks.beginnings import BLOCK, Holders, Prompt, tokens_of

HELD = 64
PATIENCE_S = 20.0


def rate(prompts: Sequence[Prompt], holders: Holders, workers: int) -> float | None:
    """Its decisions per second, each with the release of an older one; None where it is not
    installed."""
    os.environ.setdefault("DYN_LOG", "error")
    try:
        from dynamo._core import SelectionService
    except ImportError:
        return None
    with zmq.Context() as context:
        publishers = [context.socket(zmq.PUB) for _ in range(workers)]
        try:
            return asyncio.run(
                _rate(SelectionService(indexer_threads=1), publishers, prompts, holders)
            )
        finally:
            for publisher in publishers:
                publisher.close(0)


async def _rate(
    service: Any, publishers: list[Any], prompts: Sequence[Prompt], holders: Holders
) -> float:
    for number, publisher in enumerate(publishers):
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        await service.upsert_worker(
            {
                "worker_id": number,
                "model_name": "m",
                "block_size": BLOCK,
                "endpoint": f"http://127.0.0.1:{61_000 + number}",
                "kv_events_endpoints": {0: f"tcp://127.0.0.1:{port}"},
                "total_kv_blocks": 16_384,
                "max_num_batched_tokens": 8_192,
            }
        )
    asked = _asked(prompts)
    await _tell(service, publishers, asked, prompts, holders)
    began = time.perf_counter()
    for number, request in enumerate(asked):
        await service.select_and_reserve(request)
        if number >= HELD:
            await service.free_reservation(f"r{number - HELD}")
    spent = time.perf_counter() - began
    service.shutdown()
    return len(asked) / spent


def _asked(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    from dynamo._core import compute_block_hash_for_seq

    heads: dict[int, list[int]] = {}
    asked = []
    for number, prompt in enumerate(prompts):
        if prompt.head not in heads:
            heads[prompt.head] = [
                found - 2**64 if found >= 2**63 else found
                for found in compute_block_hash_for_seq(tokens_of(prompt.head), BLOCK)
            ]
        hashes = heads[prompt.head][: prompt.shared] + prompt.own
        asked.append(
            {
                "model_name": "m",
                "selection_id": f"r{number}",
                "sequence_hashes": hashes,
                "block_hashes": hashes,
                "isl_tokens": BLOCK * len(hashes),
            }
        )
    return asked


async def _tell(
    service: Any,
    publishers: list[Any],
    asked: list[dict[str, Any]],
    prompts: Sequence[Prompt],
    holders: Holders,
) -> None:
    """Who holds what, until it has been understood: a subscription takes a moment, and what is
    published before it is lost."""
    sent = [0] * len(publishers)
    until = time.monotonic() + PATIENCE_S
    while True:
        for head, held in enumerate(holders):
            for worker, blocks in held.items():
                ids = [(head + 1 << 20) + place for place in range(blocks)]
                stored = ["BlockStored", ids, None, tokens_of(head)[: BLOCK * blocks], BLOCK, None]
                batch = msgspec.msgpack.encode([time.time(), [stored], 0])
                number = struct.pack(">q", sent[worker])
                publishers[worker].send_multipart([b"", number, batch])
                sent[worker] += 1
        await asyncio.sleep(0.5)
        for request, prompt in zip(asked[:64], prompts, strict=False):
            scores = await service.overlap_scores(request)
            said = {row["worker_id"]: row["device_blocks"] for row in scores["workers"]}
            if {worker: n for worker, n in said.items() if n} != prompt.hits(holders):
                break
        else:
            return
        if time.monotonic() > until:
            raise RuntimeError("Dynamo's index does not hold what its workers published")
