"""Token buffers, our keys, and vLLM's own block hashes."""

from __future__ import annotations

from array import array
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.prefix_reuse import EngineHashes, PrefixKeys, PrefixReuseIndex, block_keys
from sage_llm_ops.prefix_reuse.engine_hashes import ALGORITHMS, DEFAULT_SEED, as_number
from sage_llm_ops.prefix_reuse.hashing import as_tokens
from sage_llm_ops.prefix_reuse.keys import chain, root_key
from sage_llm_ops.types.errors import ConfigError, InvalidRequest, UnknownName
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
        ([1, True], "list of integers; got bool in it"),
        ([1, 2, 3.0], "list of integers; got float in it"),
        ([1, None], "list of integers; got NoneType in it"),
        ([1, 1 << 70], f"token id {1 << 70} is not between"),
        ([1 << 63, -1], f"token id {1 << 63} is not between"),
        (np.array([1.0]), "list of integers; got float64"),
        (np.array([1 << 31]), "token id 2147483648 is not between"),
        (np.array([True]), "list of integers; got bool"),
        (np.array(["7"]), "list of integers; got <U1"),
        (np.array([[1, 2]]), "list of integers"),
        (memoryview(array("f", [1.0])), "list of integers; got float32"),
        (memoryview(array("q", [1 << 40])), "token id 1099511627776 is not between"),
        (None, "list of integers"),
        ("abc", "list of integers"),
        ({1: 2}, "list of integers"),
        (7, "list of integers"),
        (iter([1]), "list of integers"),
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


def test_a_view_of_numbers_is_read_as_numbers() -> None:
    """Whatever their width, order and stride; what it is a view of is no matter."""
    wanted = np.array([1, 2, 3], dtype="<i4").tobytes()
    for tokens in (
        memoryview(array("q", [1, 2, 3])),
        memoryview(array("i", [1, 2, 3])),
        memoryview(array("i", [1, 9, 2, 9, 3]))[::2],
        memoryview(wanted),
        array("q", [1, 2, 3]),
        np.array([1, 2, 3], dtype=">i4"),
        np.array([1, 9, 2, 9, 3], dtype="u8")[::2],
    ):
        assert as_tokens(tokens) == wanted


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([1.5], "got float among them"),
        ([True], "got bool among them"),
        (["7"], "got str among them"),
        (np.array([1.0]), "got float among them"),
        ([1, -1], "block key -1 is not between"),
        ([1 << 64], "block key 18446744073709551616 is not between"),
        (b"1234567", "7 bytes is not one of uint64"),
    ],
)
def test_what_is_no_key_is_refused_by_name(keys: Any, said: str) -> None:
    index = PrefixReuseIndex(0)
    for call in (lambda: index.insert(keys, "w"), lambda: PrefixReuseIndex(4).lookup_keys(keys)):
        with pytest.raises(InvalidRequest, match=said):
            call()
    assert len(index) == 0


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
        Salt("a\0b", "c"),
        Salt("a", "b\0c"),
        Salt(extra="\udc80"),
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


def test_engine_hashes_take_what_every_prompt_may_be() -> None:
    hashes, ids = EngineHashes(), list(range(40))
    wanted = hashes.chain(ids, 16)
    assert len(wanted) == 2
    assert hashes.chain(np.array(ids), 16) == wanted
    assert hashes.chain(as_tokens(ids), 16) == wanted
    with pytest.raises(ConfigError, match="block_size=0 must be"):
        hashes.chain(ids, 0)


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
