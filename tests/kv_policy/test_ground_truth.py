"""Hits exactly as libCacheSim and an independent implementation counted them."""

from __future__ import annotations

from typing import Any

import pytest

from sage_llm_ops.kv_policy.eviction import eviction_policy
from sage_llm_ops.kv_policy.eviction.belady import belady_hits
from sage_llm_ops.kv_policy.eviction.replay import Hits, replay_request
from tests.kv_policy.recorded import FILES, POLICIES, TRUTH, recorded, truth

pytestmark = pytest.mark.skipif(not TRUTH.is_file(), reason="needs the reference results")

SIZES = ("0.01", "0.05", "0.10", "0.30")


def _expected(cell: dict[str, Any], name: str) -> int:
    """Where the two references differ the independent one counts (`agree` is false)."""
    found: int = cell[name].get("own_hits", cell[name]["hits"])
    return found


@pytest.mark.parametrize("name", FILES)
def test_the_streams_are_those_of_the_reference(name: str) -> None:
    stream, known = recorded(name), truth()[name]
    assert stream.digest() == known["access_stream_sha256_u64le"]
    assert (len(stream.keys), stream.unique) == (known["accesses"], known["unique"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FILES)
def test_hits(name: str, size: str) -> None:
    cell, keys = truth()[name]["sizes"][size], recorded(name).keys
    got, expected = {}, {}
    for theirs, (ours, options) in POLICIES.items():
        expected[theirs] = _expected(cell, theirs)
        got[theirs] = eviction_policy(ours, cell["capacity"], **options).replay(keys)
    assert got == expected


@pytest.mark.parametrize("size", SIZES)
def test_prefix_hits(size: str) -> None:
    stream = recorded("mooncake_synthetic")
    cell = truth()["mooncake_synthetic"]["sizes"][size]
    for theirs in ("FIFO", "LRU", "LFU", "ARC", "S3FIFO"):
        policy, counts = eviction_policy(POLICIES[theirs][0], cell["capacity"]), Hits()
        for blocks in stream.requests:
            replay_request(policy, blocks, counts)
        assert (counts.hits, counts.prefix_hits) == (
            cell[theirs]["own_hits"],
            cell[theirs]["prefix_hits"],
        )


@pytest.mark.parametrize("name", [name for name in FILES if name != "lirs_loop"])
def test_the_bound_is_theirs_and_nobody_is_above(name: str) -> None:
    keys = recorded(name).keys
    for cell in truth()[name]["sizes"].values():
        bound = belady_hits(keys, cell["capacity"])
        assert bound == cell["Belady_upper_bound"]["hits"]
        assert all(_expected(cell, theirs) <= bound for theirs in POLICIES)
        for ours in ("sieve", "lirs", "adaptive"):
            assert eviction_policy(ours, cell["capacity"]).replay(keys) <= bound
