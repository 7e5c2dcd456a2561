"""The tree in C and the one in Python, driven side by side, beside an account of who was told what."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sage_llm_ops.prefix_reuse.base import ANY, EXPECTED
from sage_llm_ops.prefix_reuse.compiled import CompiledTree, functions
from sage_llm_ops.prefix_reuse.tree import PythonTree

pytestmark = pytest.mark.skipif(functions() is None, reason="no C compiler")

SALTS = (b"0" * 16, b"1" * 16)
HOLDERS = st.sampled_from([0, 1, 2, 70])
PLANES = st.sampled_from([0, 1, 2])
PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=6)
"""Few different blocks, so that prompts share prefixes and paths part."""
SALT = st.sampled_from(SALTS)
NAMES = st.integers(1, 40)


def words(values: Any) -> bytes:
    return np.asarray(list(values), dtype="<u8").tobytes()


class Trees(RuleBasedStateMachine):
    block_size, remember, bits = 4, False, 64

    def __init__(self) -> None:
        super().__init__()
        made = [
            kind(self.block_size, remember=self.remember, hash_bits=self.bits)
            for kind in (CompiledTree, PythonTree)
        ]
        self.fast, self.slow = made
        for tree in made:
            tree.ensure_holders(71)

    def data(self, blocks: list[int]) -> bytes:
        if not self.block_size:
            return words(1 + hash(tuple(blocks[:at])) % 40 for at in range(1, len(blocks) + 1))
        return np.repeat(np.asarray(blocks, dtype="<i4"), self.block_size).tobytes()

    def both(self, method: str, salt: bytes | None, *args: Any, create: bool = True) -> Any:
        answers = []
        for tree in (self.fast, self.slow):
            call = getattr(tree, method)
            if salt is None:
                answers.append(call(*args))
                continue
            root = tree.root(salt, create)
            answers.append(None if root is None else call(root, *args))
        return answers

    def same(self, method: str, salt: bytes | None, *args: Any, create: bool = True) -> Any:
        fast, slow = self.both(method, salt, *args, create=create)
        assert fast == slow
        return fast

    @rule(salt=SALT, blocks=PROMPTS, holder=HOLDERS, plane=PLANES)
    def insert(self, salt: bytes, blocks: list[int], holder: int, plane: int) -> None:
        fast, slow = self.both("insert", None, salt, self.data(blocks), len(blocks), holder, plane)
        assert fast[2] == slow[2], "the same key"

    @rule(salt=SALT, blocks=PROMPTS, skip=st.integers(0, 6), holder=HOLDERS, plane=PLANES)
    def withdraw(self, salt: bytes, blocks: list[int], skip: int, holder: int, plane: int) -> None:
        data = self.data(blocks)
        self.same("withdraw", salt, data, len(blocks), skip, holder, plane, create=False)

    @rule(
        salt=SALT,
        blocks=PROMPTS,
        names=st.lists(NAMES, min_size=6, max_size=6),
        behind=st.none() | NAMES,
        holder=HOLDERS,
        plane=PLANES,
    )
    def stored(
        self,
        salt: bytes,
        blocks: list[int],
        names: list[int],
        behind: int | None,
        holder: int,
        plane: int,
    ) -> None:
        n, data, hashes = len(blocks), self.data(blocks), words(names[: len(blocks)])
        args = (hashes, data) if self.block_size else (data, None)
        if behind is None:
            self.same("stored", salt, None, *args, n, holder, plane)
        else:
            self.same("stored", None, None, behind, *args, n, holder, plane)

    @rule(names=st.lists(NAMES, max_size=6), holder=HOLDERS, plane=PLANES)
    def stored_again(self, names: list[int], holder: int, plane: int) -> None:
        self.same("stored_again", None, words(names), len(names), holder, plane)

    @rule(names=st.lists(NAMES, max_size=6), holder=HOLDERS, plane=PLANES)
    def removed(self, names: list[int], holder: int, plane: int) -> None:
        self.same("removed", None, words(names), len(names), holder, plane)

    @rule(salt=SALT, blocks=PROMPTS, holder=HOLDERS)
    def expect(self, salt: bytes, blocks: list[int], holder: int) -> None:
        self.both("expect", salt, self.data(blocks), len(blocks), holder)

    @rule(salt=SALT, blocks=PROMPTS, holder=HOLDERS)
    def unexpect(self, salt: bytes, blocks: list[int], holder: int) -> None:
        self.both("unexpect", salt, self.data(blocks), len(blocks), holder, create=False)

    @rule(holder=HOLDERS, plane=st.sampled_from([0, 1, 2, EXPECTED]))
    def clear(self, holder: int, plane: int) -> None:
        self.both("clear", None, holder, plane)
        assert self.fast.held(holder, plane) == 0

    @rule(most=st.integers(0, 12))
    def evict(self, most: int) -> None:
        self.same("evict", None, most)

    @rule(salt=SALT, blocks=PROMPTS)
    def lookup(self, salt: bytes, blocks: list[int]) -> None:
        data, keyed = self.data(blocks), not self.block_size
        self.compare(self.both("find", None, salt, data, len(blocks), (ANY, 1, 8), keyed))

    def compare(self, answers: Any) -> None:
        fast, slow = answers
        assert (fast.known, fast.followed) == (slow.known, slow.followed)
        assert fast.reach.tolist() == slow.reach.tolist()

    @rule(salt=SALT, blocks=PROMPTS)
    def a_copy_answers_alike(self, salt: bytes, blocks: list[int]) -> None:
        data, keyed = self.data(blocks), not self.block_size
        self.compare(
            [
                tree.find(salt, data, len(blocks), (ANY,), keyed)
                for tree in (self.fast.clone(), self.slow.clone())
            ]
        )

    @invariant()
    def whole(self) -> None:
        assert self.fast.check() == ""
        assert self.slow.check() == ""
        fast, slow = self.fast.stats(), self.slow.stats()
        assert self.fast.sets() == self.slow.sets()
        for name in ("blocks", "roots", "conflicts", "evicted"):
            assert getattr(fast, name) == getattr(slow, name), name
        for holder in (0, 1, 2, 70):
            for plane in range(4):
                assert self.fast.held(holder, plane) == self.slow.held(holder, plane)


class Remembering(Trees):
    remember = True


class Colliding(Trees):
    """Two bits of key: nearly everything collides."""

    bits = 2


class OddBlocks(Trees):
    block_size = 3


class Keys(Trees):
    block_size = 0


RULES = settings(max_examples=25, stateful_step_count=30, deadline=None)
for machine in (Trees, Remembering, Colliding, OddBlocks, Keys):
    machine.TestCase.settings = RULES
TestTrees = Trees.TestCase
TestRemembering = Remembering.TestCase
TestColliding = Colliding.TestCase
TestOddBlocks = OddBlocks.TestCase
TestKeys = Keys.TestCase


@pytest.mark.parametrize("kind", [CompiledTree, PythonTree])
def test_a_reported_chain_goes_whole_before_a_younger_one(
    kind: type[CompiledTree | PythonTree],
) -> None:
    """Engines report from the front, so a chain's beginning is its oldest block. It waits for what
    follows it, and is no younger for that."""
    tree = kind(4)
    tree.ensure_holders(1)
    size = 50
    for chain in (0, 1):
        data = words(range(chain * 2 * size, (chain + 1) * 2 * size))
        for at in range(size):
            name, before = chain * size + at + 1, chain * size + at
            root, behind = (None, before) if at else (tree.root(SALTS[0], True), None)
            block = data[16 * at : 16 * at + 16]
            assert tree.stored(root, behind, words([name]), block, 1, 0, 0)
    old, young = (words(range(c * 2 * size, (c + 1) * 2 * size)) for c in (0, 1))

    def known(data: bytes) -> int:
        return tree.find(SALTS[0], data, size, (ANY,), False).known

    for left in range(2 * size - 1, -1, -1):
        assert len(tree.evict(left)) == 1
        assert (known(old), known(young)) == (max(0, left - size), min(size, left))
        assert tree.check() == ""


@pytest.mark.parametrize("kind", [CompiledTree, PythonTree])
def test_a_block_that_went_by_one_name_comes_back_by_its_other(
    kind: type[CompiledTree | PythonTree],
) -> None:
    tree, block = kind(4, remember=True), words([1, 2])
    tree.ensure_holders(1)
    for name in (1, 2):
        assert tree.stored(tree.root(SALTS[0], True), None, words([name]), block, 1, 0, 0)
    assert tree.removed(words([1]), 1, 0, 0) == 1
    assert tree.held(0, 0) == 0
    assert tree.stored(tree.root(SALTS[0], True), None, words([2]), block, 1, 0, 0)
    assert tree.held(0, 0) == 1
    assert tree.find(SALTS[0], block, 1, (ANY,), False).reach.tolist() == [1]


@pytest.mark.parametrize("kind", [CompiledTree, PythonTree])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4])
def test_salts_whose_keys_collide_are_kept_apart(
    kind: type[CompiledTree | PythonTree], size: int
) -> None:
    """Also where a block is too small for the digest of one: tenants would share theirs."""
    tree = kind(size, hash_bits=1)
    tree.ensure_holders(8)
    data = words([1, 2])[: 4 * size or 8]
    salts = [bytes(15) + bytes([number]) for number in range(8)]
    for holder, salt in enumerate(salts):
        tree.insert(salt, data, 1, holder, 0)
    assert tree.stats().roots == 8
    for holder, salt in enumerate(salts):
        found = tree.find(salt, data, 1, (ANY,), not size)
        assert found.reach.tolist() == [int(other == holder) for other in range(8)]
    assert tree.check() == ""


def test_many_holders_and_growth() -> None:
    """Beyond one machine word, with tables that grow and shrink."""
    rng = np.random.default_rng(1)
    fast, slow = CompiledTree(4), PythonTree(4)
    counted: Counter[str] = Counter()
    for step in range(1500):
        holders = 1 + step // 4
        blocks = rng.integers(0, 3, rng.integers(1, 12))
        data = np.repeat(blocks.astype("<i4"), 4).tobytes()
        holder, n = int(rng.integers(holders)), len(blocks)
        for tree in (fast, slow):
            tree.ensure_holders(holders)
            tree.insert(SALTS[0], data, n, holder, step % 3)
            if step % 7 == 0:
                tree.clear(int(holder), step % 3)
            if step % 50 == 49:
                tree.evict(200)
        found = [t.find(SALTS[0], data, n, (ANY, 1), False) for t in (fast, slow)]
        assert found[0].known == found[1].known and found[0].followed == found[1].followed
        assert found[0].reach.tolist() == found[1].reach.tolist()
        counted["found"] += found[0].known
        if step % 100 == 0:
            assert (fast.check(), slow.check()) == ("", "")
    assert counted["found"] > 1000
