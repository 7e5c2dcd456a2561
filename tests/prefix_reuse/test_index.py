"""PrefixReuseIndex and PrefixMatcher, as somebody would use them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.prefix_reuse import PrefixMatcher, PrefixReuseIndex
from sage_llm_ops.prefix_reuse.compiled import functions
from sage_llm_ops.types.errors import ConfigError, IntegrityError, InvalidRequest, UnknownName
from sage_llm_ops.types.kv import Tier
from sage_llm_ops.types.prefix import Salt

Make = Callable[..., PrefixReuseIndex]


@pytest.fixture(params=["compiled", "python"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    if request.param == "compiled" and functions() is None:
        pytest.skip("no C compiler")
    made: list[PrefixReuseIndex] = []

    def build(block_size: int = 4, **options: Any) -> PrefixReuseIndex:
        made.append(PrefixReuseIndex(block_size, compiled=request.param == "compiled", **options))
        return made[-1]

    yield build
    for index in made:
        index.check_integrity()


def test_longest_match_of_each_holder(make: Make) -> None:
    index = make()
    index.insert(range(20), "far")
    index.insert(range(10), "near")  # two whole blocks and a rest
    index.insert([9, *range(1, 20)], "other")
    match = index.lookup(range(18))
    assert match.holders() == {"far": 16, "near": 8}
    assert (match.of("far"), match.of("other"), match.of("nobody")) == (16, 0, 0)
    assert match.known == 16
    best = match.best()
    assert best is not None
    assert (best.holder, best.matched_length, best.remaining_tokens) == ("far", 16, 2)
    assert best.confidence == 1.0
    assert match.hit("other").matched_length == 0


def test_a_hit_brings_back_what_was_inserted(make: Make) -> None:
    index = make()
    entry = index.insert(range(9), "w", kv_block_ids=[7, 5], metadata={"node": 3})
    best = index.lookup(range(30)).best()
    assert best is not None
    assert best.entry == entry
    assert (entry.kv_block_ids, entry.token_length) == ((7, 5), 8)
    assert entry.token_hash == index.keys(range(8))[-1]
    part = index.lookup(range(4)).best()
    assert part is not None
    assert part.entry is not None
    assert part.entry.kv_block_ids == ()


def test_nobody_knows_a_short_or_foreign_prompt(make: Make) -> None:
    index = make()
    assert index.lookup([1, 2, 3]).best() is None
    index.insert([1, 2, 3], "w")  # no whole block
    assert len(index) == 0
    assert index.lookup([1, 2, 3]).holders() == {}
    assert index.lookup([8] * 8).known == 0


def test_salts_keep_apart(make: Make) -> None:
    index = make()
    salts = [Salt(), Salt("m"), Salt("m", "lora"), Salt("m", tenant="t"), Salt("m", extra="image")]
    for number, salt in enumerate(salts):
        index.insert(range(8), f"w{number}", salt=salt)
    for number, salt in enumerate(salts):
        assert index.lookup(range(8), salt=salt).holders() == {f"w{number}": 8}
    assert index.lookup(range(8), salt=Salt("other")).holders() == {}


def test_tiers(make: Make) -> None:
    index = make()
    index.insert(range(8), "w", tier=Tier.GPU)
    index.insert(range(16), "w", tier=Tier.NVME)
    index.insert(range(4), "v", tier=Tier.CPU)
    assert index.lookup(range(16)).holders() == {"w": 16, "v": 4}
    assert index.lookup(range(16), tiers=[Tier.GPU]).holders() == {"w": 8}
    assert index.lookup(range(16), tiers=[Tier.CPU, Tier.NVME]).holders() == {"w": 16, "v": 4}
    hit = index.lookup(range(16)).hit("w")
    assert hit.by_tier == {Tier.GPU: 8, Tier.CPU: 8, Tier.NVME: 16}
    assert index.invalidate("w", tier=Tier.NVME) == 4
    assert index.lookup(range(16)).of("w") == 8


def test_invalidate(make: Make) -> None:
    index = make()
    index.insert(range(16), "w")
    index.insert(range(16), "v")
    assert index.invalidate("w", range(16), keep=6) == 2, "the block that token 6 is in stays"
    assert index.lookup(range(16)).holders() == {"w": 8, "v": 16}
    assert index.invalidate("v") == 4
    assert len(index) == 2
    assert index.remove("w") == 2
    assert len(index) == 0
    assert index.tree.stats().roots == 0
    with pytest.raises(UnknownName, match="prefix holder 'w'"):
        index.invalidate("w")


def test_a_removed_holders_number_is_given_away_clean(make: Make) -> None:
    index = make()
    index.insert(range(8), "a")
    index.insert(range(8), "b")
    index.remove("a")
    index.insert(range(4), "c")
    assert index.numbers == {"b": 1, "c": 0}
    assert index.lookup(range(8)).holders() == {"b": 8, "c": 4}


def test_eviction_takes_the_least_recent_leaf(make: Make) -> None:
    index = make()
    index.insert([0] * 4 + [1] * 4, "w")
    index.insert([0] * 4 + [2] * 4, "w")
    oldest = index.keys([0] * 4 + [1] * 4)[-1]
    assert index.evict_lru() == [oldest]
    assert index.lookup([0] * 4 + [1] * 4).of("w") == 4
    assert index.lookup([0] * 4 + [2] * 4).of("w") == 8
    index.evict_lru(2)
    assert len(index) == 0


def test_memory_is_bounded(make: Make) -> None:
    index = make(max_blocks=10)
    for number in range(50):
        index.insert([number] * 12, "w")
        assert len(index) <= 10
    index.insert(list(range(100)), "w")
    assert len(index) == 10
    assert index.lookup(list(range(100))).of("w") == 40, "of a long prompt its beginning stays"


def test_what_everybody_forgot_is_still_known(make: Make) -> None:
    index = make(remember=True)
    index.insert(range(12), "w")
    index.remove("w")
    match = index.lookup(range(12))
    assert (match.known, match.holders()) == (12, {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"block_size": -1}, "block_size=-1"),
        ({"max_blocks": 0}, "max_blocks=0"),
        ({"hash_bits": 65}, "hash_bits=65"),
    ],
)
def test_what_cannot_be_built(options: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PrefixReuseIndex(**options)


def test_too_long_for_the_model(make: Make) -> None:
    index = make(max_tokens=8)
    index.insert(range(8), "w")
    for call in (index.lookup, lambda tokens: index.insert(tokens, "w")):
        with pytest.raises(InvalidRequest, match="9 tokens and the model takes 8"):
            call(range(9))
    assert index.lookup(range(8)).of("w") == 8


# -- collisions ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=20), st.booleans())
def test_a_weak_hash_never_serves_what_was_not_asked_for(
    prompts: list[list[int]], compiled: bool
) -> None:
    """One bit of key: whatever is looked up collides, and still only its own tokens are found."""
    if compiled and functions() is None:
        return
    index = PrefixReuseIndex(2, hash_bits=1, compiled=compiled)
    told: dict[str, list[list[int]]] = {"w0": [], "w1": [], "w2": []}
    matcher = PrefixMatcher(index)
    for number, prompt in enumerate(prompts):
        tokens = [t for block in prompt for t in (block, block)]
        truth = {
            holder: max((_common(tokens, other) for other in others), default=0)
            for holder, others in told.items()
        }
        assert index.lookup(tokens).holders() == {h: n for h, n in truth.items() if n}
        for hit in (index.lookup_keys(index.keys(tokens)).best(),):
            if hit is not None:
                checked = matcher.verify(hit, tokens)
                assert checked.matched_length <= truth[hit.holder]
                assert checked.matched_length + checked.remaining_tokens == len(tokens)
        index.insert(tokens, f"w{number % 3}")
        told[f"w{number % 3}"].append(tokens)
        index.check_integrity()


def _common(one: list[int], other: list[int]) -> int:
    same = 0
    while same < min(len(one), len(other)) and one[same : same + 2] == other[same : same + 2]:
        same += 2
    return same


def test_a_forced_collision_is_caught_and_counted(make: Make) -> None:
    index = make(2, hash_bits=1)
    first = next(a for a in range(50) if index.keys([a, a]) == [0])
    other = next(a for a in range(first + 1, 50) if index.keys([a, a]) == [0])
    index.insert([first, first], "w")
    hit = index.lookup_keys(index.keys([other, other])).best()
    assert hit is not None
    assert hit.matched_length == 2, "the key alone is fooled"
    assert hit.confidence <= 0.5
    matcher = PrefixMatcher(index)
    assert matcher.verify(hit, [other, other]).matched_length == 0
    assert matcher.conflicts == 1
    good = matcher.verify(hit, [first, first])
    assert (good.matched_length, good.confidence, matcher.conflicts) == (2, 1.0, 1)
    before = index.tree.stats().conflicts
    assert index.lookup([other, other]).best() is None
    assert index.tree.stats().conflicts == before + 1


def test_a_hit_on_what_is_gone_is_no_collision(make: Make) -> None:
    index = make()
    index.insert(range(8), "w")
    hit = index.lookup_keys(index.keys(range(8))).best()
    assert hit is not None
    index.evict_lru(2)
    index.insert([5] * 8, "w")
    matcher = PrefixMatcher(index)
    assert matcher.verify(hit, range(8)).matched_length == 0
    assert (matcher.verified, matcher.conflicts) == (1, 0)


# -- readers ------------------------------------------------------------------------------------


def test_a_snapshot_stays_as_it_is(make: Make) -> None:
    index = make()
    index.insert(range(16), "w")
    frozen = index.snapshot()
    index.insert(range(16), "v")
    index.invalidate("w")
    assert frozen.lookup(range(16)).holders() == {"w": 16}
    assert index.lookup(range(16)).holders() == {"v": 16}
    frozen.check_integrity()


def test_readers_beside_the_writer(make: Make) -> None:
    """Every answer is one cut: a holder is told whole prompts, so nobody sees half of one."""
    index = make()
    wrong: list[Any] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            for found in index.lookup(range(40)).reach.tolist():
                if found not in (0, 10):
                    wrong.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    if index.tree.__class__.__name__ == "PythonTree":
        readers = []  # its calls are not one: readers take snapshots
    for reader in readers:
        reader.start()
    try:
        for number in range(300):
            index.insert(range(40), "w")
            if number % 3 == 0:
                snapshot = index.snapshot()
                index.invalidate("w")
                assert snapshot.lookup(range(40)).of("w") == 40
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert wrong == []


def test_broken_insides_are_told() -> None:
    index = PrefixReuseIndex(4, compiled=False)
    index.insert(range(8), "w")
    index.tree._nodes.order.popitem()  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match="order of use"):
        index.check_integrity()


def test_numpy_in_numpy_out(make: Make) -> None:
    index = make(16)
    prompt = np.arange(64, dtype=np.int32)
    index.insert(prompt, "w")
    assert index.lookup(prompt.tobytes()).of("w") == 64
