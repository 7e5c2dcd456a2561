"""The tree in Python: what `native/prefix.c` is compared with, and what runs where that cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np

from sage_llm_ops.prefix_reuse.base import EXPECTED, PLANES, Found, Stats
from sage_llm_ops.prefix_reuse.keys import chain
from sage_llm_ops.prefix_reuse.nodes import Node, Nodes

TIERS = 3


@final
class PythonTree:
    """Implements `Tree`. A child is found by its tokens themselves; keys are only kept."""

    def __init__(self, block_size: int, *, remember: bool = False, hash_bits: int = 64) -> None:
        self.block_size = block_size
        self.holders = 0
        self._width = 4 * block_size or 8
        self._remember = remember
        self._nodes = Nodes((1 << hash_bits) - 1)
        self._maps: dict[tuple[int, int], dict[int, tuple[int, int, int]]] = {}
        """By holder and plane: engine's hash to slot, its birth, copies."""
        self._has: dict[tuple[int, int], set[int]] = {}
        """By holder and plane: slots."""
        self._conflicts = self._evicted = 0

    def ensure_holders(self, count: int) -> None:
        self.holders = max(self.holders, count)

    def root(self, digest: bytes, create: bool) -> int | None:
        found, top = self._nodes.roots.get(digest), self._nodes.top
        if found is None and create:
            key = chain(top.key, digest) & self._nodes.bits
            found = self._nodes.make(top, key, digest, is_root=True)
        return None if found is None else found.slot

    # -- walking ------------------------------------------------------------------------------

    def _parts(self, data: bytes, n: int) -> Iterator[bytes]:
        width = self._width
        return (data[at : at + width] for at in range(0, n * width, width))

    def _key(self, parent: Node, data: bytes) -> int:
        if not self.block_size:
            return int.from_bytes(data, "little")
        return chain(parent.key, data) & self._nodes.bits

    def _child(self, node: Node, data: bytes) -> Node | None:
        found = node.children.get(data)
        if found is None and node.children:
            self._conflicts += self._key(node, data) in self._nodes.by_key
        return found

    def _child_by_key(self, node: Node, key: int) -> Node | None:
        same = self._nodes.by_key.get(key, ()) if node.children else ()
        found = next((n for n in same if n.parent is node and not n.is_root), None)
        self._conflicts += bool(same) and found is None
        return found

    def _walk(self, root: int, data: bytes, n: int) -> Iterator[Node]:
        node: Node | None = self._nodes.by_slot[root]
        for part in self._parts(data, n):
            assert node is not None
            node = self._child(node, part)
            if node is None:
                return
            yield node

    def _descend(self, node: Node, data: bytes) -> Node:
        return self._child(node, data) or self._nodes.make(node, self._key(node, data), data)

    def _unmake(self, node: Node) -> None:
        for place in node.held:
            self._has[place].discard(node.slot)
        self._nodes.unmake(node)

    def _prune(self, node: Node | None) -> None:
        top = self._nodes.top
        while node is not None and node is not top and not node.children and not node.held:
            if self._remember and not node.is_root:
                return
            parent = node.parent
            self._unmake(node)
            node = parent

    # -- questions ----------------------------------------------------------------------------

    def find(
        self, digest: bytes, data: bytes, n: int, masks: tuple[int, ...], keyed: bool
    ) -> Found:
        root = self._nodes.roots.get(digest)
        if root is None:
            return Found(0, 0, np.zeros(len(masks) * self.holders, dtype=np.uint32))
        if not keyed:
            return self._reach(root.slot, list(self._walk(root.slot, data, n)), masks)
        node, path = root, []
        for at in range(0, 8 * n, 8):
            found = self._child_by_key(node, int.from_bytes(data[at : at + 8], "little"))
            if found is None:
                break
            path.append(node := found)
        return self._reach(root.slot, path, masks)

    def _reach(self, root: int, path: list[Node], masks: tuple[int, ...]) -> Found:
        reach = np.zeros((len(masks), self.holders), dtype=np.uint32)
        for row, mask in zip(reach, masks, strict=True):
            live: set[int] | None = None
            for depth, node in enumerate(path, 1):
                has = {holder for holder, plane in node.held if mask >> plane & 1}
                live = has if live is None else live & has
                if not live:
                    break
                row[list(live)] = depth
        last = path[-1].slot if path else root
        return Found(len(path), last, reach.reshape(-1))

    def verify(self, slot: int, born: int, data: bytes, n: int) -> int:
        node = self._nodes.by_slot.get(slot)
        if node is None or node.born != born:
            return 0
        parts, good = list(self._parts(data, n)), n
        for depth in range(n - 1, -1, -1):
            if node is None or node.is_root:
                return 0
            if node.data != parts[depth]:
                good = depth
            node = node.parent
        return good

    def key(self, slot: int) -> int:
        return self._nodes.by_slot[slot].key

    def born(self, slot: int) -> int:
        return self._nodes.births[slot]

    def held(self, holder: int, plane: int) -> int:
        return len(self._has.get((holder, plane), ()))

    # -- changes ------------------------------------------------------------------------------

    def insert(self, root: int, data: bytes, n: int, holder: int, plane: int) -> int:
        node = self._nodes.by_slot[root]
        for part in self._parts(data, n):
            node = self._descend(node, part)
            self._gain(node, holder, plane)
        self._nodes.touch(node)
        return node.slot

    def evict(self, most: int) -> list[int]:
        gone: list[int] = []
        while len(self._nodes.order) > most:
            slot = next(iter(self._nodes.order))
            node = self._nodes.by_slot[slot]
            if node.children:  # something still follows it: it is as recent as that
                self._nodes.order.move_to_end(slot)
                continue
            gone.append(node.key)
            parent = node.parent
            self._unmake(node)
            self._evicted += 1
            self._prune(parent)
        return gone

    def withdraw(self, root: int, data: bytes, n: int, skip: int, holder: int, plane: int) -> int:
        gone, last = 0, None
        for depth, node in enumerate(self._walk(root, data, n)):
            last = node
            if depth >= skip:
                gone += self._lose(node, holder, plane)
        self._prune(last)
        return gone

    def stored(
        self,
        root: int | None,
        behind: int | None,
        hashes: bytes,
        data: bytes | None,
        n: int,
        holder: int,
        plane: int,
    ) -> bool:
        slot = root
        if behind is not None:
            slot = self._known(holder, plane, behind)
        if slot is None:
            return False
        node = self._nodes.by_slot[slot]
        for at, part in enumerate(self._parts(hashes if data is None else data, n)):
            node = self._descend(node, part)
            self._nodes.order.move_to_end(node.slot)
            self._add(holder, plane, _hash(hashes, at), node)
        return True

    def _known(self, holder: int, plane: int, named: int) -> int | None:
        for step in range(TIERS):
            found = self._live(holder, (plane + step) % TIERS, named)
            if found is not None:
                return found
        return None

    def stored_again(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        known = 0
        for at in range(n):
            found = self._known(holder, 0, _hash(hashes, at))
            if found is not None:
                self._add(holder, plane, _hash(hashes, at), self._nodes.by_slot[found])
                known += 1
        return known

    def removed(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        return sum(self._take(holder, plane, _hash(hashes, at)) for at in range(n))

    def expect(self, root: int, data: bytes, n: int, holder: int) -> None:
        node = self._nodes.by_slot[root]
        for part in self._parts(data, n):
            node = self._descend(node, part)
            self._add(holder, EXPECTED, node.slot, node)
        self._nodes.touch(node)

    def unexpect(self, root: int, data: bytes, n: int, holder: int) -> None:
        for node in reversed(list(self._walk(root, data, n))):
            if self._nodes.by_slot.get(node.slot) is not node:
                break
            self._take(holder, EXPECTED, node.slot)

    def clear(self, holder: int, plane: int) -> None:
        self._maps.pop((holder, plane), None)
        for slot in sorted(self._has.get((holder, plane), ()), reverse=True):
            node = self._nodes.by_slot[slot]
            self._lose(node, holder, plane)
            self._prune(node)

    # -- one holder in one plane --------------------------------------------------------------

    def _gain(self, node: Node, holder: int, plane: int) -> None:
        node.held.add((holder, plane))
        self._has.setdefault((holder, plane), set()).add(node.slot)

    def _lose(self, node: Node, holder: int, plane: int) -> bool:
        if (holder, plane) not in node.held:
            return False
        node.held.discard((holder, plane))
        self._has[holder, plane].discard(node.slot)
        return True

    def _live(self, holder: int, plane: int, named: int) -> int | None:
        found = self._maps.get((holder, plane), {}).get(named)
        if found is None:
            return None
        node = self._nodes.by_slot.get(found[0])
        return None if node is None or node.born != found[1] else node.slot

    def _add(self, holder: int, plane: int, named: int, node: Node) -> None:
        table = self._maps.setdefault((holder, plane), {})
        before = self._live(holder, plane, named)
        copies = table[named][2] + 1 if before == node.slot else 1
        table[named] = (node.slot, node.born, copies)
        self._gain(node, holder, plane)
        if before is not None and before != node.slot:  # its engine gave the name to something else
            other = self._nodes.by_slot[before]
            self._lose(other, holder, plane)
            self._prune(other)

    def _take(self, holder: int, plane: int, named: int) -> bool:
        """An engine has one name for a block. Where one gives two, the first that it takes back takes
        the block: better not to know that it is there than to be wrong."""
        slot = self._live(holder, plane, named)
        table = self._maps.get((holder, plane), {})
        if slot is None:
            table.pop(named, None)
            return False
        _, born, copies = table[named]
        if copies > 1:
            table[named] = (slot, born, copies - 1)
            return True
        del table[named]
        node = self._nodes.by_slot[slot]
        self._lose(node, holder, plane)
        self._prune(node)
        return True

    # -- whole --------------------------------------------------------------------------------

    def stats(self) -> Stats:
        nodes = list(self._nodes.by_slot.values())
        sets = len({frozenset(node.held) for node in nodes if node.held})
        size = 400 * len(nodes)  # about: objects differ between versions of Python
        blocks, roots = len(self._nodes.order), len(self._nodes.roots)
        return Stats(blocks, roots, sets, self._conflicts, self._evicted, size)

    def clone(self) -> PythonTree:
        made = PythonTree(self.block_size, remember=True)
        made._nodes, made.holders = self._nodes.clone(), self.holders
        for slot, node in made._nodes.by_slot.items():
            for place in node.held:
                made._has.setdefault(place, set()).add(slot)
        return made

    def check(self) -> str:
        nodes = self._nodes.by_slot
        for slot, node in nodes.items():
            if not (self._remember or node.held or node.children or node.is_root):
                return "a block that nobody has and nothing follows"
            if any(slot not in self._has.get(place, ()) for place in node.held):
                return "a wrong count of what a holder has"
            if any(plane >= PLANES or holder >= self.holders for holder, plane in node.held):
                return "a holder that nobody announced"
        if any(slot not in nodes for has in self._has.values() for slot in has):
            return "a wrong count of what a holder has"
        return self._nodes.check()


def _hash(hashes: bytes, at: int) -> int:
    return int.from_bytes(hashes[8 * at : 8 * at + 8], "little")
