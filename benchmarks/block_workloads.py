"""Streams of accesses to blocks: recorded ones where SAGE_LLM_OPS_DATA or ../shared/data has them,
else one made up; and hard ones from generators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from benchmarks.workloads import ROOT
from sage_llm_ops.pipeline.block_streams import BlockStream, read_blocks, stream_of
from sage_llm_ops.pipeline.synthetic import generate_trace

MOONCAKE = {
    "synthetic": "mooncake_synthetic_trace.jsonl.zst",
    "conversation": "mooncake_conversation_first30min.jsonl.zst",
}
TUNED = ("sprite", "multi1", "multi2", "multi3", "gli", "loop")
"""LIRS traces with reference results: what was chosen by measuring was chosen on these and Mooncake."""
UNSEEN = ("2_pools", "cpp", "cs", "ps", "scan", "zigzag")


def requests(limit: int | None) -> dict[str, BlockStream]:
    """Streams of whole prompts, with their times."""
    if not _at_hand():
        return {"made_up": _made_up(limit or 2000)}
    return {name: read_blocks(_data() / file, limit) for name, file in MOONCAKE.items()}


def tuned(limit: int | None, lirs: tuple[str, ...] = TUNED) -> list[BlockStream]:
    """Mooncake and LIRS traces with reference results."""
    if not _at_hand():
        return [_made_up(limit or 4000)]
    return [*requests(limit).values(), *(_lirs(name, limit) for name in lirs)]


def unseen(limit: int | None) -> list[BlockStream]:
    """LIRS traces on which nothing was tuned."""
    return [_lirs(name, limit) for name in UNSEEN] if _at_hand() else []


def paced(seconds: float, limit: int | None) -> list[BlockStream]:
    """All LIRS traces. They have an order and no times: each is spread evenly over `seconds`."""
    streams = [_lirs(name, limit) for name in (*TUNED, *UNSEEN)] if _at_hand() else []
    return [replace(s, at=tuple(seconds * at / len(s.requests) for at in s.at)) for s in streams]


def generated(accesses: int, blocks: int = 3_000) -> list[BlockStream]:
    """What caches are known to find hard, from fixed seeds; nothing was tuned on these either."""
    kinds = {"zipf": _zipf, "shifting": _shifting, "scans": _scans, "two_loops": _two_loops}
    made = []
    for name, kind in kinds.items():
        stream = kind(Random(name), blocks)
        keys = [next(stream) for _ in range(accesses)]
        at = tuple(map(float, range(accesses)))
        made.append(BlockStream(name, at, tuple((key,) for key in keys), chained=False))
    return made


def _zipf(random: Random, blocks: int, first: int = 0) -> Iterator[int]:
    """Some are always more popular than others."""
    weights = [1.0 / rank for rank in range(1, blocks + 1)]
    while True:
        yield from random.choices(range(first, first + blocks), weights, k=1000)


def _shifting(random: Random, blocks: int) -> Iterator[int]:
    """Half of what is popular is replaced every now and then."""
    first = 0
    while True:
        chosen = _zipf(random, blocks // 2, first)
        for _ in range(2 * blocks):
            yield next(chosen)
        first += blocks // 4


def _scans(random: Random, blocks: int) -> Iterator[int]:
    """Popular ones, and from time to time a walk over many that are used once."""
    chosen, walked = _zipf(random, blocks // 2), blocks
    while True:
        for _ in range(blocks):
            yield next(chosen)
        yield from range(walked, walked + blocks // 2)
        walked += blocks // 2


def _two_loops(random: Random, blocks: int) -> Iterator[int]:
    """Two cycles of different length, one for a while and then the other."""
    while True:
        for _ in range(random.randint(2, 6)):
            yield from range(blocks // 4)
        for _ in range(random.randint(2, 6)):
            yield from range(blocks // 4, blocks)


def _data() -> Path:
    return Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")


def _at_hand() -> bool:
    return all((_data() / file).is_file() for file in MOONCAKE.values())


def _lirs(name: str, limit: int | None) -> BlockStream:
    return read_blocks(_data() / "lirs" / f"{name}.trace.gz", limit)


def _made_up(requests: int) -> BlockStream:
    return stream_of("made up", generate_trace(requests, seed=1))
