"""How each of other people's prefix indexes is driven.

Imported under their interpreters too (`prefix_peers.py`), so only numpy is needed here. What a peer
wants to be given is made before the clock runs: hashes for Dynamo and vLLM, chunks for pygtrie, arrays
of token ids for SGLang, sequences for LMDeploy. What is in memory by then is frozen: the garbage
collector looks only at what the peer makes while the clock runs. Only Dynamo's answers per worker, as
ours does; the others have one owner. After the clock each is asked whether it found what had been
inserted.
"""

from __future__ import annotations

import gc
import json
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK = 16
WORKERS = 8
ASKED = 64
Prompts = Sequence[bytes]
"""Token ids, int32 little endian."""


class Rates(NamedTuple):
    """Prompts a second."""

    inserts: float
    lookups: float


class Peer(NamedTuple):
    """By a prompt's number; `reach` is how many tokens a lookup's answer stands for."""

    insert: Callable[[int], Any]
    lookup: Callable[[int], Any]
    reach: Callable[[int, Any], int]


def rates(peer: Peer, prompts: Prompts) -> Rates:
    """All inserted, then each looked up once."""
    insert, lookup, numbers = peer.insert, peer.lookup, range(len(prompts))
    gc.collect()
    gc.freeze()
    try:
        began = time.perf_counter()
        for number in numbers:
            insert(number)
        between = time.perf_counter()
        for number in numbers:
            lookup(number)
        ended = time.perf_counter()
    finally:
        gc.unfreeze()
    for number in range(0, len(prompts), max(1, len(prompts) // ASKED)):
        # An engine computes the last token in any case: LMDeploy leaves it out of a match.
        held = (len(prompts[number]) // 4 - 1) // BLOCK * BLOCK
        found = peer.reach(number, lookup(number))
        if found < held:
            raise RuntimeError(f"found {found} of the {held} tokens of prompt {number}")
    return Rates(len(prompts) / (between - began), len(prompts) / (ended - between))


def _ids(prompts: Prompts) -> list[list[int]]:
    return [np.frombuffer(prompt, dtype="<i4").tolist() for prompt in prompts]


def dynamo(prompts: Prompts) -> Peer:
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
    return Peer(
        lambda n: tree.apply_event(n % WORKERS, events[n]),
        lambda n: tree.find_matches(hashes[n]).scores,
        lambda n, scores: BLOCK * max(scores.values(), default=0),
    )


def sglang(prompts: Prompts, page: int = BLOCK) -> Peer:
    """RadixCache in pages of a block's size; slots of KV memory come with a prompt, as in its engine."""
    import torch
    from sglang.srt.mem_cache.base_prefix_cache import InsertParams, MatchPrefixParams
    from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

    cache = RadixCache.create_simulated(page_size=page)
    keys = [RadixKey(array("q", ids)) for ids in _ids(prompts)]
    given = [InsertParams(key=key, value=torch.arange(len(key))) for key in keys]
    asked = [MatchPrefixParams(key=key) for key in keys]
    return Peer(
        lambda n: cache.insert(given[n]),
        lambda n: cache.match_prefix(asked[n]),
        lambda _, found: int(found.device_prefix_len),
    )


def sglang_page_1(prompts: Prompts) -> Peer:
    """In pages of a token: its default."""
    return sglang(prompts, 1)


def vllm(prompts: Prompts) -> Peer:
    """BlockPool: the blocks that a new request would be given."""
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

    return Peer(insert, lookup, lambda _, found: BLOCK * len(found))


def lmdeploy(prompts: Prompts) -> Peer:
    """BlockTrie in its scheduler's hands: a waiting sequence is matched, given blocks for what is
    left, and its blocks join the trie; a lookup is the match of one more sequence. Made before the clock
    runs: both sequences of every prompt, and memory for all of them."""
    from lmdeploy.pytorch.config import CacheConfig, SchedulerConfig
    from lmdeploy.pytorch.messages import SequenceMeta
    from lmdeploy.pytorch.paging.scheduler import Scheduler
    from lmdeploy.pytorch.strategies.ar.sequence import ARSequenceStrategy

    count = len(prompts)
    blocks = sum(len(prompt) // (4 * BLOCK) + 1 for prompt in prompts)
    cache = CacheConfig(2 * count, BLOCK, 0, blocks, enable_prefix_caching=True)
    meta = SequenceMeta(BLOCK, strategy=ARSequenceStrategy())
    scheduler = Scheduler(SchedulerConfig(2 * count, 1 << 20), cache, meta)
    session = scheduler.add_session(0)
    ids = [np.frombuffer(prompt, dtype="<i4").astype(np.int64) for prompt in prompts]
    given = [session.add_sequence(one) for one in ids]
    asked = [session.add_sequence(one) for one in ids]
    trie, manager = scheduler.block_trie, scheduler.block_manager

    def insert(number: int) -> None:
        sequence = given[number]
        trie.match(sequence)
        manager.allocate(sequence)
        trie.allocate(sequence)

    return Peer(
        insert,
        lambda n: trie.match(asked[n]),
        lambda n, _: int(asked[n].num_history_ids),
    )


def pygtrie(prompts: Prompts) -> Peer:
    """A trie over chunks of tokens."""
    from pygtrie import Trie

    trie = Trie()
    width = 4 * BLOCK
    keys = [
        tuple(prompt[at : at + width] for at in range(0, len(prompt) - width + 1, width))
        for prompt in prompts
    ]

    def insert(number: int) -> None:
        trie[keys[number]] = number % WORKERS

    return Peer(
        insert,
        lambda n: trie.longest_prefix(keys[n]),
        lambda _, found: BLOCK * len(found.key),
    )
