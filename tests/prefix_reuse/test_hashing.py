"""Token buffers, our keys, and vLLM's own block hashes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.prefix_reuse import EngineHashes, PrefixKeys, block_keys
from sage_llm_ops.prefix_reuse.engine_hashes import ALGORITHMS, DEFAULT_SEED, as_number
from sage_llm_ops.prefix_reuse.hashing import as_tokens
from sage_llm_ops.prefix_reuse.keys import chain, root_key
from sage_llm_ops.types.errors import InvalidRequest, UnknownName
from sage_llm_ops.types.prefix import Salt

IDS = st.lists(st.integers(0, (1 << 31) - 1), min_size=1, max_size=80)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([1.5, 2.0], "list of integers; got float"),
        (["7"], "list of integers; got str"),
        ([[1, 2], [3, 4]], "list of integers"),
        ([[1], [2, 3]], "token ids"),
        ([True, False], "list of integers"),
        ([3, -1], "token id -1 is not between"),
        ([1 << 31], "token id 2147483648 is not between"),
        ([1 << 70], "list of integers"),
        ([], "no tokens"),
        (b"", "no tokens"),
        (b"12345", "5 bytes is not one of int32"),
        ([1, 2, 3, 4], "4 tokens and the model takes 3"),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(tokens: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        as_tokens(tokens, limit=3)


@given(IDS)
def test_a_list_an_array_and_a_buffer_are_the_same(ids: list[int]) -> None:
    buffer = np.asarray(ids, dtype="<i4").tobytes()
    for tokens in (ids, tuple(ids), np.asarray(ids), buffer, bytearray(buffer), memoryview(buffer)):
        assert as_tokens(tokens) == buffer


@given(IDS, st.integers(1, 20), st.lists(st.integers(1, 30), max_size=6))
def test_a_growing_prompt_has_the_keys_of_the_whole_one(
    ids: list[int], block: int, cuts: list[int]
) -> None:
    keys, rest = PrefixKeys(block), ids
    for cut in cuts:
        if rest[:cut]:
            keys.extend(rest[:cut])
        rest = rest[cut:]
    if rest:
        keys.extend(rest)
    assert keys.keys == block_keys(ids, block)
    assert len(keys.keys) == len(ids) // block


@given(IDS, st.integers(1, 20))
def test_compiled_and_plain_keys_are_equal(ids: list[int], block: int) -> None:
    key, plain = root_key(Salt()), []
    data = np.asarray(ids, dtype="<i4").tobytes()
    for at in range(0, len(ids) - block + 1, block):
        key = chain(key, data[4 * at : 4 * (at + block)])
        plain.append(key)
    assert block_keys(ids, block) == plain


def test_every_part_of_a_salt_counts() -> None:
    salts = [
        Salt(),
        Salt(model="a"),
        Salt(lora="a"),
        Salt(tenant="a"),
        Salt(extra="a"),
        Salt("a", "b"),
        Salt("ab"),
    ]
    assert len({tuple(block_keys([1, 2, 3, 4], 2, salt)) for salt in salts}) == len(salts)


@given(IDS, st.data())
def test_one_other_token_changes_every_key_from_there(ids: list[int], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ids) - 1))
    other = list(ids)
    other[at] ^= 1
    before, after = block_keys(ids, 4), block_keys(other, 4)
    assert before[: at // 4] == after[: at // 4]
    assert not set(before[at // 4 :]) & set(after[at // 4 :])


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UnknownName, match="did you mean 'sha256'"):
        EngineHashes("sha265")


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
@pytest.mark.parametrize("seed", [None, "0", "42", "a seed"])
@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_the_hashes_are_vllms(
    algorithm: str, seed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cbor" in algorithm:
        pytest.importorskip("cbor2")
    if algorithm.startswith("xxhash"):
        pytest.importorskip("xxhash")
        if seed is None:
            pytest.skip("vLLM draws a seed then")
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core import kv_cache_utils as theirs

    if seed is None:
        monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    else:
        monkeypatch.setenv("PYTHONHASHSEED", seed)
    function = get_hash_fn_by_name(algorithm)
    theirs.init_none_hash(function)
    tokens = list(range(100, 170))
    extra = [("lora-a",), None, (("mm", "id", 3), ("cache_salt", "s"))]
    parent, expected = None, []
    for number in range(4):
        block = tokens[16 * number : 16 * number + 16]
        more = extra[number] if number < len(extra) else None
        parent = theirs.hash_block_tokens(function, parent, block, more)
        expected.append(parent)
    ours = EngineHashes(algorithm, seed if seed is not None else DEFAULT_SEED)
    assert ours.chain(tokens, 16, extra=extra) == expected
    assert ours.chain(tokens[32:], 16, parent=expected[1], extra=extra[2:]) == expected[2:]
    assert [as_number(name) for name in expected] == [
        theirs.maybe_convert_block_hash(name) for name in expected
    ]
