"""Eviction policies: accesses a second beside libCacheSim and cachetools, and bytes a block."""

from __future__ import annotations

import gc
import os
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.metric import Metric
from benchmarks.workloads import ROOT
from sage_llm_ops.kv_policy.eviction import POLICIES, eviction_policy
from sage_llm_ops.pipeline.block_streams import BlockStream, read_blocks, stream_of
from sage_llm_ops.pipeline.synthetic import generate_trace

WORKLOAD = (
    "Streams of block accesses (two Mooncake and four LIRS traces where SAGE_LLM_OPS_DATA or "
    "../shared/data has them, else one synthetic), each at a tenth of its blocks, every miss "
    "inserted. A sample is all streams once: accesses over wall time; n counts accesses. libCacheSim "
    "is asked by its Python binding, `cache.get(request)` for each access with the requests made "
    "before; cachetools by `key in cache` and `cache[key]`. Ratio: ours / theirs, one after the other "
    "in each repeat; above 1 we are faster. bytes_per_block: what a policy holds after a stream "
    "(ghosts included, the keys' own integers not), over resident blocks."
)
SIZES = {"ci": (3, None), "full": (9, None)}
STREAMS = (
    "mooncake_synthetic_trace.jsonl.zst",
    "mooncake_conversation_first30min.jsonl.zst",
    *(f"lirs/{name}.trace.gz" for name in ("sprite", "multi3", "gli", "loop")),
)
SHARE = 0.1
THEIRS = {"fifo": "FIFO", "lru": "LRU", "lfu": "LFU", "arc": "ARC", "s3fifo": "S3FIFO"}
Streams = list[tuple[list[int], int]]
"""Accesses and capacity."""


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(repeats: int, limit: int | None) -> dict[str, Metric]:
    """`repeats` times over at most `limit` requests of each stream."""
    streams = [(s.keys, max(1, int(SHARE * s.unique))) for s in _streams(limit)]
    accesses = sum(len(keys) for keys, _ in streams)
    samples: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name in POLICIES:
            ours = accesses / _timed(partial(_ours, name, streams))
            samples.setdefault(f"accesses_per_s_{name}", []).append(ours)
            if name in THEIRS:
                theirs = accesses / _libcachesim(THEIRS[name], streams)
                samples.setdefault(f"vs_libcachesim_{name}", []).append(ours / theirs)
            if name == "lru":
                theirs = accesses / _timed(partial(_cachetools, streams))
                samples.setdefault("vs_cachetools_lru", []).append(ours / theirs)
    metrics = {
        name: Metric.of(found, "1/s" if name.startswith("accesses") else "ratio", accesses)
        for name, found in samples.items()
    }
    memory = {name: [_bytes(name, *stream) for stream in streams] for name in POLICIES}
    metrics["bytes_per_block"] = Metric.of(memory["lru"], "B")
    for name, found in memory.items():
        metrics[f"bytes_per_block_{name}"] = Metric.of(found, "B")
    return metrics


def _data() -> Path:
    return Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")


def _streams(limit: int | None) -> list[BlockStream]:
    data = _data()
    if all((data / name).is_file() for name in STREAMS):
        return [read_blocks(data / name, limit) for name in STREAMS]
    return [stream_of("synthetic", generate_trace(limit or 4000, seed=1))]


def all_streams(limit: int | None) -> dict[str, list[BlockStream]]:
    """Those with reference results, and under `_unseen` those without."""
    data = _data()
    if not all((data / name).is_file() for name in STREAMS):
        return {"": _streams(limit)}
    known = [*STREAMS, "lirs/multi1.trace.gz", "lirs/multi2.trace.gz"]
    files = sorted(f"lirs/{file.name}" for file in (data / "lirs").glob("*.trace.gz"))
    return {
        "": [read_blocks(data / name, limit) for name in known],
        "_unseen": [read_blocks(data / name, limit) for name in files if name not in known],
    }


def _timed(call: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _ours(name: str, streams: Streams) -> None:
    for keys, capacity in streams:
        eviction_policy(name, capacity).replay(keys)


def _libcachesim(name: str, streams: Streams) -> float:
    """Seconds in the loops alone: it would be unfair to count the making of its requests."""
    import libcachesim

    spent = 0.0
    for keys, capacity in streams:
        cache = getattr(libcachesim, name)(capacity)
        made: dict[int, Any] = {}
        for key in keys:
            if key not in made:
                made[key] = libcachesim.Request()
                made[key].obj_id, made[key].obj_size = key, 1
        requests = [made[key] for key in keys]
        spent += _timed(partial(_ask, cache.get, requests))
    return spent


def _ask(get: Callable[[Any], bool], requests: list[Any]) -> None:
    for request in requests:
        get(request)


def _cachetools(streams: Streams) -> None:
    from cachetools import LRUCache

    for keys, capacity in streams:
        cache: Any = LRUCache(capacity)
        hits = 0
        for key in keys:
            if key in cache:
                hits += 1
                cache[key]
            else:
                cache[key] = None


def _bytes(name: str, keys: list[int], capacity: int) -> float:
    gc.collect()
    tracemalloc.start()
    try:
        policy = eviction_policy(name, capacity)
        policy.replay(keys)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    return held / max(1, len(policy))
