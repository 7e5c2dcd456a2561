"""vLLM's frames in the graph's words."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.kv_events.frames import MAX_BLOCKS, changes, parts
from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.kv import KvCleared, KvRemoved, KvStored


def frame(*events: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode([1.0, list(events), 0])


def stored(**fields: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored",
        "block_hashes": [7, 8],
        "parent_block_hash": None,
        "token_ids": [1, 2, 3, 4],
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        **fields,
    }


def words(*values: int) -> bytes:
    return np.array(values, dtype="<u8").tobytes()


def test_the_three_kinds() -> None:
    removed = {"type": "BlockRemoved", "block_hashes": [7], "medium": "CPU", "group_idx": 0}
    found = changes(frame(stored(parent_block_hash=3), removed, {"type": "AllBlocksCleared"}))
    tokens = np.array([1, 2, 3, 4], dtype="<i4").tobytes()
    assert found == [KvStored(words(7, 8), tokens, 2, 3), KvRemoved(words(7), 1), KvCleared()]


def test_names_may_be_digests() -> None:
    digest = bytes(range(32))
    (found,) = changes(frame(stored(block_hashes=[digest, (1 << 64) - 1])))
    assert isinstance(found, KvStored)
    assert found.hashes == words(int.from_bytes(digest[-8:], "big"), (1 << 64) - 1)


def test_other_groups_and_kinds_of_cache_are_left_out() -> None:
    said = [
        stored(group_idx=1),
        stored(group_idx=0, kv_cache_spec_kind="sliding_window"),
        {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU", "group_idx": 2},
    ]
    assert changes(frame(*said)) == []


def test_what_is_mixed_in() -> None:
    (lora,) = changes(frame(stored(lora_name="a", extra_keys=[["a"], ["a"]])))
    assert isinstance(lora, KvStored)
    assert (lora.lora, lora.extra, len(lora.hashes)) == ("a", "", 16)
    (both,) = changes(frame(stored(lora_name="a", extra_keys=[["a", "a"], ["a"]])))
    assert isinstance(both, KvStored)
    assert (both.lora, both.extra, len(both.hashes)) == ("a", "['a']", 16)
    (salted,) = changes(frame(stored(extra_keys=[["salt"], None])))
    assert isinstance(salted, KvStored)
    assert (salted.extra, len(salted.hashes)) == ("['salt']", 16)
    (cut,) = changes(frame(stored(extra_keys=[None, [["image", 3]]])))
    assert isinstance(cut, KvStored)
    assert (cut.hashes, len(cut.tokens)) == (words(7), 8)
    assert changes(frame(stored(parent_block_hash=1, extra_keys=[["x"], None]))) == []


def test_an_unknown_medium_is_for_the_view_to_count() -> None:
    (found,) = changes(frame(stored(medium="TAPE")))
    assert isinstance(found, KvStored)
    assert found.tier == -1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"a": 1}),
        msgspec.msgpack.encode([1.0, [{"type": "BlockMoved"}]]),
        frame(stored(token_ids=["x"])),
        frame(stored(token_ids=[1 << 40])),
        frame(stored(block_hashes=[1.5])),
        frame(stored(extra_keys=[5, 6])),
        frame(stored(extra_keys=["ab", None])),
        frame(stored())[:-3],
    ],
)
def test_what_is_no_frame_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="does not decode"):
        changes(payload)


@given(st.binary(max_size=60))
def test_noise(payload: bytes) -> None:
    try:
        changes(payload)
    except ProtocolError:
        pass


@given(st.lists(st.integers(1, 700), max_size=12))
def test_parts_are_small_and_lose_nothing(sizes: list[int]) -> None:
    said = [KvRemoved(words(*range(size))) for size in sizes]
    found = parts(list(said))
    assert [change for part in found for change in part] == said
    for part in found:
        blocks = sum(len(change.hashes) // 8 for change in part)  # type: ignore[union-attr]
        assert blocks <= MAX_BLOCKS or len(part) == 1
