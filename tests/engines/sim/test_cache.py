"""The block pool against recorded truth and against itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.sim.cache import BlockPool, Key
from sage_llm_ops.pipeline.traces import read_trace

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("SAGE_LLM_OPS_DATA", ROOT.parent / "shared" / "data"))
TRACE, TRUTH = DATA / "mooncake_synthetic_trace.jsonl.zst", DATA / "groundtruth_prefix_setA.json"


@pytest.mark.skipif(not TRUTH.is_file(), reason="the recorded traces are not on this machine")
def test_hits_on_a_recorded_trace_are_the_known_ones() -> None:
    truth = json.loads(TRUTH.read_text())["mooncake_synthetic"]
    requests = list(read_trace(TRACE))
    cells = [(1 << 40, truth["single_node_infinite"])]
    cells += [
        (cell["blocks"], cell["prefixLRU_tail_first"])
        for cell in truth["capacity_curve_tokens"].values()
        # Below, single requests are larger than the cache, which an engine refuses.
        if cell["blocks"] > 250
    ]
    assert len(cells) > 4
    for blocks, expected in cells:
        pool = BlockPool(blocks)
        tokens = hits = 0
        for request in requests:
            keys = request.blocks
            found = pool.match(keys)
            hits += found
            tokens += min(found * 512, request.n_prompt)
            held: list[Key] = list(keys[:found])
            assert pool.take(held, len(keys) - found)
            pool.publish(keys[found:], held)
            pool.release(held, len(keys) - len(held))
        assert pool.active == 0
        assert (hits, tokens) == (expected["prefix_hit_blocks"], expected["hit_tokens"]), blocks
    assert sum(request.n_prompt for request in requests) == 61_194_628


@given(
    st.integers(4, 12),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 5), st.integers(0, 3))),
)
def test_no_block_is_lost_or_given_twice(
    total: int, moves: list[tuple[bool, int, int, int]]
) -> None:
    pool = BlockPool(total)
    holders: list[tuple[list[Key], int]] = []
    for take, topic, count, extra in moves:
        if take:
            keys: list[Key] = [topic * 100 + k for k in range(count)]
            found = pool.match(keys)
            held, new = keys[:found], count - found + extra
            if pool.take(held, new):
                pool.publish(keys[found:], held)
                holders.append((held, count + extra - len(held)))
        elif holders:
            pool.release(*holders.pop(topic % len(holders)))
        pool.check_integrity(holders)
        assert pool.active <= total
    for held, private in holders:
        pool.release(held, private)
    assert pool.active == 0
