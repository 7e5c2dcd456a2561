"""The recorded workloads and the reference results, where the machine has them."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

from sage_llm_ops.pipeline.block_streams import BlockStream, read_blocks, stream_of
from sage_llm_ops.pipeline.synthetic import generate_trace

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")
TRUTH = DATA / "groundtruth_eviction_setA.json"

FILES = {
    "mooncake_synthetic": "mooncake_synthetic_trace.jsonl.zst",
    "mooncake_conversation_first30min": "mooncake_conversation_first30min.jsonl.zst",
    **{
        f"lirs_{name}": f"lirs/{name}.trace.gz"
        for name in ("sprite", "multi1", "multi2", "multi3", "gli", "loop")
    },
}

POLICIES = {
    "FIFO": ("fifo", {}),
    "LRU": ("lru", {}),
    "LFU": ("lfu", {}),
    "ARC": ("arc", {}),
    "S3FIFO": ("s3fifo", {}),
    "S3FIFO_paper_warmup": ("s3fifo", {"warm_up": "paper"}),
}
"""What the reference calls them, and what we do."""


@functools.cache
def truth() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TRUTH.read_text())
    return {name: cells for name, cells in found.items() if not name.startswith("_")}


@functools.cache
def recorded(name: str) -> BlockStream:
    return read_blocks(DATA / FILES[name])


@functools.cache
def made_up(requests: int = 400, seed: int = 1) -> BlockStream:
    return stream_of("made up", generate_trace(requests, seed))
