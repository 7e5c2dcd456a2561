"""The prefix index: lookups and inserts from tokens and from hashes, memory, KV events, beside others."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from benchmarks.metric import Metric, percentile
from benchmarks.prefix_peer import BLOCK, WORKERS, Rates
from benchmarks.prefix_peers import peers
from sage_llm_ops.engines.kv_events.listener import batches
from sage_llm_ops.engines.kv_events.sequence import Next
from sage_llm_ops.prefix_reuse import PrefixFleet, PrefixReuseIndex
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.kv import PrefixCache

WORKLOAD = (
    "10,000 prompts of 2,158 tokens in the mean, blocks of 16, 200 groups by a Zipf law of 1.3 whose "
    "members share half of the prompt; inserted in turn by 8 workers, then each looked up once, as "
    "int32 buffers; every answer says how far each of the workers reaches. p99: of single lookups, "
    "each timed by itself. hashes: block keys made before. holders_1024_vs_8: time of a lookup with "
    "1,024 workers over that with 8. bytes_per_block_10m: growth of the process's resident memory "
    "over 10 million blocks from tokens, their tokens kept; lookup_10m_vs_100k: time of a lookup "
    "among them over that among 100,000. event_blocks_per_s: blocks in vLLM's event frames of one "
    "step's size (8 blocks), from bytes to the view. Peers (benchmarks/prefix_peers.py says how each is "
    "installed): Dynamo's RadixTree, vLLM's BlockPool, pygtrie, LMDeploy's BlockTrie, SGLang's "
    "RadixCache in pages of 16 and of 1, each under its own interpreter and every time in a fresh fork, "
    "idle while anything else is timed. They get what they want, made before the clock runs (hashes, "
    "chunks, sequences); LMDeploy's gets the first 2,000 prompts. What is not there is named on stderr "
    "and counts for nothing. best_peer_ratio: our lookups from tokens, hashing included, over the best "
    "peer's, in the same repeat; best_peer_insert_ratio alike; best_peer_ratio_hashes: our lookups with "
    "hashes given, over the same. n counts prompts, or blocks."
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of it."""

    prompts: int = 10_000
    repeats: int = 3
    blocks: int = 10_000_000
    few_blocks: int = 100_000
    event_frames: int = 20_000
    peers: bool = True


SIZES = {"ci": Sizes(), "full": Sizes(repeats=7)}


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(sizes: Sizes) -> dict[str, Metric]:
    # First of all: what others leave free in this process would hold some of its blocks.
    large = _large(sizes)
    made = prompts(sizes.prompts)
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    with peers(made) if sizes.peers else nullcontext(dict) as others:
        for _ in range(sizes.repeats):
            for name, value in (_ours(made) | _beside(others())).items():
                add(name, value)
            if sizes.peers:
                _compare(found, add)
            add("holders_1024_vs_8", _holders(made, 1024) / _holders(made, 8))
            add("event_blocks_per_s", _events(sizes.event_frames))
    units = {"lookup_p99_us_tokens": "us"}
    metrics = {
        name: Metric.of(
            values, units.get(name, "1/s" if "per_s" in name else "ratio"), sizes.prompts
        )
        for name, values in found.items()
    }
    return metrics | large


def _beside(rates: dict[str, Rates]) -> dict[str, float]:
    return {f"peer_{name}_lookups_per_s": rate.lookups for name, rate in rates.items()} | {
        f"peer_{name}_inserts_per_s": rate.inserts for name, rate in rates.items()
    }


def _compare(found: dict[str, list[float]], add: Callable[[str, float], None]) -> None:
    """Ours over the best peer's, in the last repeat."""
    pairs = {
        "best_peer_ratio": ("lookups_per_s_tokens", "_lookups_per_s"),
        "best_peer_insert_ratio": ("inserts_per_s_tokens", "_inserts_per_s"),
        "best_peer_ratio_hashes": ("lookups_per_s_hashes", "_lookups_per_s"),
    }
    for name, (ours, theirs) in pairs.items():
        others = [
            values[-1]
            for peer, values in found.items()
            if peer.startswith("peer_") and peer.endswith(theirs)
        ]
        if others:
            add(name, found[ours][-1] / max(others))


def prompts(count: int, seed: int = 0) -> list[bytes]:
    """Half shared within 200 groups; the rest of each is its own."""
    rng = np.random.default_rng(seed)
    groups = [rng.integers(0, 32_000, 1079, dtype=np.int32) for _ in range(200)]
    chosen = np.minimum(rng.zipf(1.3, count) - 1, 199)
    own = np.maximum(BLOCK, rng.normal(1079, 300, count)).astype(int)
    return [
        np.concatenate([groups[group], rng.integers(0, 32_000, length, dtype=np.int32)]).tobytes()
        for group, length in zip(chosen, own, strict=True)
    ]


def filled(made: Sequence[bytes], workers: int = WORKERS) -> PrefixReuseIndex:
    index = PrefixReuseIndex(BLOCK, max_blocks=1 << 30)
    for number, prompt in enumerate(made):
        index.insert(prompt, f"w{number % workers}")
    return index


def _ours(made: Sequence[bytes]) -> dict[str, float]:
    gc.collect()
    index = PrefixReuseIndex(BLOCK, max_blocks=1 << 30)
    names = [f"w{number % WORKERS}" for number in range(len(made))]
    inserted = _timed(lambda: [index.insert(p, w) for p, w in zip(made, names, strict=True)])
    looked = _timed(lambda: [index.lookup(prompt).reach for prompt in made])
    single = []
    for prompt in made:
        began = time.perf_counter()
        _ = index.lookup(prompt).reach
        single.append(time.perf_counter() - began)
    keys = [np.array(index.keys(prompt), dtype="<u8").tobytes() for prompt in made]
    hashed = _timed(lambda: [index.lookup_keys(one).reach for one in keys])
    return {
        "lookups_per_s_tokens": len(made) / looked,
        "inserts_per_s_tokens": len(made) / inserted,
        "lookup_p99_us_tokens": percentile(single, 0.99) * 1e6,
        "lookups_per_s_hashes": len(made) / hashed,
    }


def _holders(made: Sequence[bytes], workers: int) -> float:
    """Seconds for all lookups; the shared half of a prompt is on very many of the workers."""
    index = filled(made, workers)
    return _timed(lambda: [index.lookup(prompt).reach for prompt in made])


def _events(frames: int) -> float:
    """Blocks a second from frames to the view, eight workers in turn."""
    rng = np.random.default_rng(1)
    view = PrefixFleet(max_blocks=1 << 30)
    for number in range(WORKERS):
        view.up(WorkerId(f"w{number}"), "m", (), PrefixCache(BLOCK, 1 << 20, True, 1))
    tokens = rng.integers(0, 32_000, 8 * BLOCK * 64).tolist()
    said = []
    for number in range(frames):
        first, at = 8 * number, number % 56
        said.append(
            msgspec.msgpack.encode(
                [
                    0.0,
                    [
                        {
                            "type": "BlockStored",
                            "block_hashes": [
                                hash((name,)) & (1 << 64) - 1 for name in range(first, first + 8)
                            ],
                            "parent_block_hash": None
                            if number < WORKERS or number % 16 < 8
                            else hash((8 * (number - WORKERS) + 7,)) & (1 << 64) - 1,
                            "token_ids": [number, *tokens[at * BLOCK : (at + 8) * BLOCK - 1]],
                            "block_size": BLOCK,
                            "lora_id": None,
                            "medium": "GPU",
                            "lora_name": None,
                            "extra_keys": [None] * 8,
                            "group_idx": 0,
                        }
                    ],
                    0,
                ]
            )
        )

    def take() -> None:
        for number, payload in enumerate(said):
            worker = WorkerId(f"w{number % WORKERS}")
            for batch in batches(worker, 1, [Next(number // WORKERS, payload)], print):
                view.take(batch)

    seconds = _timed(take)
    came = sum(view.told(WorkerId(f"w{n}")).blocks_in for n in range(WORKERS))  # type: ignore[union-attr]
    assert came == 8 * frames, "every block was taken"
    return came / seconds


def _large(sizes: Sizes) -> dict[str, Metric]:
    """Prompts are made while they are inserted: 10 million blocks of tokens would be 640 MB more."""
    rng = np.random.default_rng(2)
    index = PrefixReuseIndex(BLOCK, max_blocks=1 << 30)
    groups = rng.integers(0, 32_000, (200, 64 * BLOCK), dtype=np.int32)
    asked: list[bytes] = []

    def fill(until: int) -> None:
        asked.clear()
        every = max(1, until // (128 * 1000))
        number = 0
        while len(index) < until:
            own = rng.integers(0, 32_000, 64 * BLOCK, dtype=np.int32)
            prompt = np.concatenate([groups[number % 200], own]).tobytes()
            index.insert(prompt, f"w{number % WORKERS}")
            if number % every == 0:
                asked.append(prompt)
            number += 1

    def lookup() -> float:
        rounds = [
            _timed(lambda: [index.lookup(prompt).reach for prompt in asked]) / len(asked)
            for _ in range(5)
        ]
        return min(rounds)

    gc.collect()
    before = _resident()
    fill(sizes.few_blocks)
    few = lookup()
    fill(sizes.blocks)
    held = (_resident() - before) / len(index)
    many = lookup()
    index.check_integrity() if sizes.blocks <= 1_000_000 else None
    return {
        "bytes_per_block_10m": Metric.of([held], "B", len(index)),
        "lookup_10m_vs_100k": Metric.of([many / few], "ratio", len(asked)),
    }


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
