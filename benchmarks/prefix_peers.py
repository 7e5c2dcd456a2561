"""Other people's prefix indexes, on the same prompts. None is a dependency: what is not installed, or
does not work on this machine, is absent: named in the output, never replaced by a number.

    pip install ai-dynamo-runtime==1.6.1 pygtrie     (vLLM is there where its workers are)

Each gets what it wants to be given, made before the clock runs: hashes for Dynamo and vLLM, chunks for
pygtrie, an array of token ids for SGLang.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK = 16
WORKERS = 8
Prompts = Sequence[bytes]


class Rates(NamedTuple):
    """Prompts a second."""

    inserts: float
    lookups: float


def rates(prompts: Prompts) -> dict[str, Rates]:
    """Every peer that runs here."""
    found: dict[str, Rates] = {}
    for name, measure in PEERS.items():
        try:
            found[name] = measure(prompts)
        except Exception as error:
            print(f"peer {name}: absent: {type(error).__name__}: {error}", file=sys.stderr)
    return found


def _timed(insert: Callable[[int], Any], lookup: Callable[[int], Any], count: int) -> Rates:
    began = time.perf_counter()
    for number in range(count):
        insert(number)
    between = time.perf_counter()
    for number in range(count):
        lookup(number)
    ended = time.perf_counter()
    return Rates(count / (between - began), count / (ended - between))


def _ids(prompts: Prompts) -> list[list[int]]:
    return [np.frombuffer(prompt, dtype="<i4").tolist() for prompt in prompts]


def dynamo(prompts: Prompts) -> Rates:
    """RadixTree: per worker, like ours. Events are encoded before the clock runs."""
    from dynamo._core import RadixTree, compute_block_hash_for_seq

    tree = RadixTree()
    hashes = [compute_block_hash_for_seq(ids, BLOCK) for ids in _ids(prompts)]
    events = []
    for number, one in enumerate(hashes):
        blocks, chained = [], 0
        for name in one:
            chained = hash((chained, name)) & (1 << 64) - 1
            blocks.append({"block_hash": chained, "tokens_hash": name})
        stored = {"stored": {"parent_hash": None, "blocks": blocks}}
        events.append(json.dumps({"event_id": number, "data": stored, "dp_rank": 0}).encode())
    return _timed(
        lambda n: tree.apply_event(n % WORKERS, events[n]),
        lambda n: tree.find_matches(hashes[n]).scores,
        len(prompts),
    )


def sglang(prompts: Prompts) -> Rates:
    """RadixCache, one owner."""
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams, MatchPrefixParams
    from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

    cache = RadixCache.create_simulated(page_size=BLOCK)
    keys = [RadixKey(array("q", ids)) for ids in _ids(prompts)]
    return _timed(
        lambda n: cache.insert(InsertParams(key=keys[n], value=None)),
        lambda n: cache.match_prefix(MatchPrefixParams(key=keys[n])),
        len(prompts),
    )


def vllm(prompts: Prompts) -> Rates:
    """BlockPool, one owner: the blocks that a new request would be given."""
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import make_block_hash_with_group_id

    from sage_llm_ops.prefix_reuse import block_keys

    chains: list[list[Any]] = [
        [key.to_bytes(32, "little") for key in block_keys(prompt, BLOCK)] for prompt in prompts
    ]
    pool = BlockPool(sum(map(len, chains)) + 1, True, BLOCK)

    def lookup(number: int) -> list[Any]:
        found = []
        for name in chains[number]:
            block = pool.get_cached_block(name, [0])
            if block is None:
                break
            found.append(block)
        return found

    def insert(number: int) -> None:
        held = len(lookup(number))
        new = chains[number][held:]
        for name, block in zip(new, pool.get_new_blocks(len(new)), strict=True):
            keyed = make_block_hash_with_group_id(name, 0)
            block.set_block_hash(keyed, num_tokens=BLOCK)
            pool.cached_block_hash_to_block.insert(keyed, block)

    return _timed(insert, lookup, len(prompts))


def pygtrie(prompts: Prompts) -> Rates:
    """A trie over chunks of tokens, one owner."""
    from pygtrie import Trie

    trie = Trie()
    width = 4 * BLOCK
    keys = [
        tuple(prompt[at : at + width] for at in range(0, len(prompt) - width + 1, width))
        for prompt in prompts
    ]

    def insert(number: int) -> None:
        trie[keys[number]] = number % WORKERS

    return _timed(insert, lambda n: trie.longest_prefix(keys[n]), len(prompts))


PEERS: dict[str, Callable[[Prompts], Rates]] = {
    "dynamo": dynamo,
    "sglang": sglang,
    "vllm": vllm,
    "pygtrie": pygtrie,
}
