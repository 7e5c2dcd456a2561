"""Eviction policies: accesses a second beside libCacheSim and cachetools, and bytes a block."""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.block_workloads import tuned
from benchmarks.metric import Metric
from sage_llm_ops.kv_policy.eviction import POLICIES, eviction_policy
from sage_llm_ops.types.kv import BlockKey

WORKLOAD = (
    "Streams of block accesses (two Mooncake and four LIRS traces where SAGE_LLM_OPS_DATA or "
    "../shared/data has them, else one synthetic), each at a tenth of its blocks, every miss "
    "inserted. A sample is all streams once: accesses over wall time; n counts accesses. Two ways: "
    "calls_per_s, one Python call an access (ours `policy.access(key)`, libCacheSim's binding "
    "`cache.get(request)` with the requests made before, cachetools `key in cache` and `cache[key]`); "
    "accesses_per_s, one call a stream (ours `policy.replay(keys)`, libCacheSim `process_trace` of "
    "its binary format: their loop is C, ours Python). vs_libcachesim, vs_cachetools: call for call; "
    "vs_libcachesim_bulk: stream for stream. Ratio: ours / theirs, one after the other in each repeat; "
    "above 1 we are faster. bytes_per_block: what a policy holds after a stream (ghosts included, the "
    "keys' own integers not), over resident blocks."
)
SIZES = {"ci": (3, 100_000), "full": (9, None)}
LIRS = ("sprite", "multi3", "gli", "loop")
SHARE = 0.1
THEIRS = {
    "fifo": "FIFO",
    "lru": "LRU",
    "lfu": "LFU",
    "arc": "ARC",
    "s3fifo": "S3FIFO",
    "sieve": "Sieve",
    "lirs": "LIRS",
}
ORACLE_GENERAL = np.dtype([("at", "<u4"), ("key", "<u8"), ("size", "<u4"), ("next", "<i8")])
"""libCacheSim's binary trace."""

Streams = list[tuple[list[int], int]]
"""Accesses and capacity."""


def run(preset: str) -> dict[str, Metric]:
    return measure(*SIZES[preset])


def measure(repeats: int, limit: int | None) -> dict[str, Metric]:
    """`repeats` times over at most `limit` requests of each stream."""
    streams = [(s.keys, max(1, int(SHARE * s.unique))) for s in tuned(limit, LIRS)]
    accesses = sum(len(keys) for keys, _ in streams)
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="sage-llm-ops-bench-") as directory:
        files = [_binary(keys, Path(directory, str(n))) for n, (keys, _) in enumerate(streams)]
        for _ in range(repeats):
            for name in POLICIES:
                bulk = _timed(partial(_replay, name, streams))
                calls = sum(_calls(eviction_policy(name, room).access, k) for k, room in streams)
                found = {
                    f"accesses_per_s_{name}": accesses / bulk,
                    f"calls_per_s_{name}": accesses / calls,
                }
                if name in THEIRS:
                    theirs = sum(_libcachesim(THEIRS[name], *stream) for stream in streams)
                    found[f"vs_libcachesim_{name}"] = theirs / calls
                    theirs = sum(
                        _libcachesim_bulk(THEIRS[name], file, room)
                        for file, (_, room) in zip(files, streams, strict=True)
                    )
                    found[f"vs_libcachesim_bulk_{name}"] = theirs / bulk
                if name == "lru":
                    found["vs_cachetools_lru"] = _timed(partial(_cachetools, streams)) / calls
                for metric, value in found.items():
                    samples.setdefault(metric, []).append(value)
    metrics = {
        name: Metric.of(found, "1/s" if "_per_s_" in name else "ratio", accesses)
        for name, found in samples.items()
    }
    memory = {name: [_bytes(name, *stream) for stream in streams] for name in POLICIES}
    metrics["bytes_per_block"] = Metric.of(memory["lru"], "B")
    for name, held in memory.items():
        metrics[f"bytes_per_block_{name}"] = Metric.of(held, "B")
    return metrics


def _timed(call: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _replay(name: str, streams: Streams) -> None:
    for keys, capacity in streams:
        eviction_policy(name, capacity).replay(keys)


def _calls(access: Callable[[Any], bool], items: list[Any]) -> float:
    """Seconds in the loop alone: it would be unfair to count the making of their requests."""

    def one_by_one() -> None:
        for item in items:
            access(item)

    return _timed(one_by_one)


def _libcachesim(name: str, keys: list[int], capacity: int) -> float:
    import libcachesim

    made: dict[BlockKey, Any] = {}
    for key in keys:
        if key not in made:
            made[key] = libcachesim.Request()
            made[key].obj_id, made[key].obj_size = key, 1
    return _calls(_their_cache(name, capacity).get, [made[key] for key in keys])


def _libcachesim_bulk(name: str, file: Path, capacity: int) -> float:
    import libcachesim

    cache = _their_cache(name, capacity)
    kind = libcachesim.TraceType.ORACLE_GENERAL_TRACE
    return _timed(lambda: cache.process_trace(libcachesim.TraceReader(str(file), kind)))


def _their_cache(name: str, capacity: int) -> Any:
    """Its hash table sized for the blocks: the default, for millions, would only cost it time."""
    import libcachesim

    return getattr(libcachesim, name)(capacity, hashpower=capacity.bit_length() + 2)


def _binary(keys: list[int], file: Path) -> Path:
    rows = np.zeros(len(keys), ORACLE_GENERAL)
    rows["key"], rows["size"], rows["next"] = keys, 1, -2
    rows.tofile(file)
    return file


def _cachetools(streams: Streams) -> None:
    from cachetools import LRUCache

    for keys, capacity in streams:
        cache: Any = LRUCache(capacity)
        for key in keys:
            if key in cache:
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
