"""The tree in Python: what `native/prefix.c` is compared with, and what runs where that cannot."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import final

import numpy as np

from sage_llm_ops.prefix_reuse.base import EXPECTED, FOLLOWED, NIL, PLANES, Found, Stats
from sage_llm_ops.prefix_reuse.keys import ROOT, chain
from sage_llm_ops.prefix_reuse.node import Node

TIERS = 3


@final
class PythonTree:
    """Implements `Tree`. A child is found by its tokens themselves; keys are only kept."""

    def __init__(self, block_size: int, *, remember: bool = False, hash_bits: int = 64) -> None:
        self.block_size = block_size
        self.holders = 0
        self._width = 4 * block_size or 8
        self._remember = remember
        self._bits = (1 << hash_bits) - 1
        self._top = Node(0, 0, None, ROOT & self._bits, b"")
        self._top.is_root = True
        self._roots: dict[bytes, Node] = {}
        self._nodes: dict[int, Node] = {}
        self._births: Counter[int] = Counter()
        self._free: list[int] = []
        self._order: OrderedDict[int, None] = OrderedDict()
        """Slots of blocks, least recently used first, without those that wait: their turn came while
        something followed them. They are the first again when nothing does."""
        self._by_key: dict[int, list[Node]] = {}
        self._maps: dict[tuple[int, int], dict[int, tuple[int, int, int]]] = {}
        """By holder and plane: engine's hash to slot, its birth, copies."""
        self._has: dict[tuple[int, int], set[int]] = {}
        """By holder and plane: slots."""
        self._conflicts = self._evicted = 0

    def ensure_holders(self, count: int) -> None:
        self.holders = max(self.holders, count)

    def root(self, digest: bytes, create: bool) -> int | None:
        found = self._roots.get(digest)
        if found is None and create:
            key = chain(self._top.key, digest) & self._bits
            found = self._make(self._top, key, digest, is_root=True)
            self._roots[digest] = found
        return None if found is None else found.slot

    # -- walking ------------------------------------------------------------------------------

    def _parts(self, data: bytes, n: int) -> Iterator[bytes]:
        width = self._width
        return (data[at : at + width] for at in range(0, n * width, width))

    def _key(self, parent: Node, data: bytes) -> int:
        if not self.block_size:
            return int.from_bytes(data, "little")
        return chain(parent.key, data) & self._bits

    def _child(self, node: Node, data: bytes) -> Node | None:
        found = node.children.get(data)
        if found is None and node.children:
            self._conflicts += self._key(node, data) in self._by_key
        return found

    def _child_by_key(self, node: Node, key: int) -> Node | None:
        same = self._by_key.get(key, ()) if node.children else ()
        found = next((n for n in same if n.parent is node and not n.is_root), None)
        self._conflicts += bool(same) and found is None
        return found

    def _walk(self, root: int, data: bytes, n: int) -> Iterator[Node]:
        node: Node | None = self._nodes[root]
        for part in self._parts(data, n):
            assert node is not None
            node = self._child(node, part)
            if node is None:
                return
            yield node

    def _descend(self, node: Node, data: bytes) -> Node:
        return self._child(node, data) or self._make(node, self._key(node, data), data)

    def _make(self, parent: Node, key: int, data: bytes, *, is_root: bool = False) -> Node:
        slot = self._free.pop() if self._free else len(self._nodes) + 1
        node = Node(slot, self._births[slot], parent, key, data)
        node.is_root = is_root
        self._nodes[slot] = node
        self._by_key.setdefault(key, []).append(node)
        if not is_root:
            parent.children[data] = node
            self._order[slot] = None
        return node

    def _unmake(self, node: Node) -> None:
        same = self._by_key[node.key]
        same.remove(node)
        if not same:
            del self._by_key[node.key]
        for place in node.held:
            self._has[place].discard(node.slot)
        if node.is_root:
            del self._roots[node.data]
        else:
            parent = node.parent
            assert parent is not None
            del parent.children[node.data]
            self._order.pop(node.slot, None)
            if not (parent.children or parent.is_root or parent.slot in self._order):
                self._order[parent.slot] = None
                self._order.move_to_end(parent.slot, last=False)
        del self._nodes[node.slot]
        self._births[node.slot] += 1
        self._free.append(node.slot)

    def _prune(self, node: Node | None) -> None:
        while node is not None and node is not self._top and not node.children and not node.held:
            if self._remember and not node.is_root:
                return
            parent = node.parent
            self._unmake(node)
            node = parent

    def _touch(self, node: Node | None) -> None:
        while node is not None and not node.is_root:
            self._use(node)
            node = node.parent

    def _use(self, node: Node) -> None:
        self._order[node.slot] = None
        self._order.move_to_end(node.slot)

    # -- questions ----------------------------------------------------------------------------

    def find(
        self, digest: bytes, data: bytes, n: int, masks: tuple[int, ...], keyed: bool
    ) -> Found:
        root = self._roots.get(digest)
        if root is None:
            return Found(0, np.zeros(len(masks) * self.holders, dtype=np.uint32))
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
        followed = FOLLOWED if path and path[-1].children else 0
        return Found(last << 32 | followed | len(path), reach.reshape(-1))

    def verify(self, slot: int, born: int, data: bytes, n: int) -> int:
        node = self._nodes.get(slot)
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
        return self._nodes[slot].key

    def born(self, slot: int) -> int:
        node = self._nodes.get(slot)
        return NIL if node is None else node.born

    def held(self, holder: int, plane: int) -> int:
        return len(self._has.get((holder, plane), ()))

    # -- changes ------------------------------------------------------------------------------

    def insert(
        self, digest: bytes, data: bytes, n: int, holder: int, plane: int
    ) -> tuple[int, int, int]:
        root = self.root(digest, True)
        assert root is not None
        node = self._nodes[root]
        for part in self._parts(data, n):
            node = self._descend(node, part)
            self._gain(node, holder, plane)
        self._touch(node)
        return node.slot, node.born, node.key

    def evict(self, most: int) -> list[int]:
        gone: list[int] = []
        while len(self._nodes) - len(self._roots) > most:
            slot, _ = self._order.popitem(last=False)
            node = self._nodes[slot]
            if node.children:
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
        node = self._nodes[slot]
        for at, part in enumerate(self._parts(hashes if data is None else data, n)):
            node = self._descend(node, part)
            self._use(node)
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
                self._add(holder, plane, _hash(hashes, at), self._nodes[found])
                known += 1
        return known

    def removed(self, hashes: bytes, n: int, holder: int, plane: int) -> int:
        return sum(self._take(holder, plane, _hash(hashes, at)) for at in range(n))

    def expect(self, root: int, data: bytes, n: int, holder: int) -> None:
        node = self._nodes[root]
        for part in self._parts(data, n):
            node = self._descend(node, part)
            self._add(holder, EXPECTED, node.slot, node)
        self._touch(node)

    def unexpect(self, root: int, data: bytes, n: int, holder: int) -> None:
        for node in reversed(list(self._walk(root, data, n))):
            if self._nodes.get(node.slot) is not node:
                break
            self._take(holder, EXPECTED, node.slot)

    def clear(self, holder: int, plane: int) -> None:
        self._maps.pop((holder, plane), None)
        for slot in sorted(self._has.get((holder, plane), ()), reverse=True):
            node = self._nodes[slot]
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
        node = self._nodes.get(found[0])
        return None if node is None or node.born != found[1] else node.slot

    def _add(self, holder: int, plane: int, named: int, node: Node) -> None:
        table = self._maps.setdefault((holder, plane), {})
        before = self._live(holder, plane, named)
        copies = table[named][2] + 1 if before == node.slot else 1
        table[named] = (node.slot, node.born, copies)
        self._gain(node, holder, plane)
        if before is not None and before != node.slot:  # its engine gave the name to something else
            other = self._nodes[before]
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
        node = self._nodes[slot]
        self._lose(node, holder, plane)
        self._prune(node)
        return True

    # -- whole --------------------------------------------------------------------------------

    def stats(self) -> Stats:
        size = 400 * len(self._nodes)  # about: objects differ between versions of Python
        blocks = len(self._nodes) - len(self._roots)
        return Stats(blocks, len(self._roots), self._conflicts, self._evicted, size)

    def sets(self) -> int:
        return len({frozenset(node.held) for node in self._nodes.values() if node.held})

    def clone(self) -> PythonTree:
        made = PythonTree(self.block_size, remember=True)
        made._bits, made.holders = self._bits, self.holders
        copies: dict[int, Node] = {0: made._top}
        for slot in sorted(self._nodes, key=lambda s: (not self._nodes[s].is_root,)):
            self._copy(self._nodes[slot], made, copies)
        made._births = self._births.copy()
        return made

    def _copy(self, node: Node, made: PythonTree, copies: dict[int, Node]) -> Node:
        """Parents first, however long the path is."""
        path = []
        while node.slot not in copies:
            path.append(node)
            assert node.parent is not None
            node = node.parent
        for node in reversed(path):
            assert node.parent is not None
            parent = copies[node.parent.slot]
            new = Node(node.slot, node.born, parent, node.key, node.data)
            new.is_root, new.held = node.is_root, set(node.held)
            copies[node.slot] = made._nodes[node.slot] = new
            made._by_key.setdefault(new.key, []).append(new)
            if node.is_root:
                made._roots[node.data] = new
            else:
                parent.children[node.data] = new
                made._order[node.slot] = None
            for place in node.held:
                made._has.setdefault(place, set()).add(node.slot)
        return copies[node.slot]

    def check(self) -> str:
        for slot, node in self._nodes.items():
            parent = node.parent
            if parent is None or (
                parent is not self._top and self._nodes.get(parent.slot) is not parent
            ):
                return "a block below one that is gone"
            if not node.is_root and parent.children.get(node.data) is not node:
                return "a block that its parent does not know"
            if node not in self._by_key.get(node.key, ()):
                return "a block that its own key does not find"
            if not (self._remember or node.held or node.children or node.is_root):
                return "a block that nobody has and nothing follows"
            if any(slot not in self._has.get(place, ()) for place in node.held):
                return "a wrong count of what a holder has"
            if any(plane >= PLANES or holder >= self.holders for holder, plane in node.held):
                return "a holder that nobody announced"
        leaves = {s for s, node in self._nodes.items() if not (node.is_root or node.children)}
        if not leaves <= set(self._order) <= set(self._nodes):
            return "a broken order of use"
        if any(slot not in self._nodes for has in self._has.values() for slot in has):
            return "a wrong count of what a holder has"
        return ""


def _hash(hashes: bytes, at: int) -> int:
    return int.from_bytes(hashes[8 * at : 8 * at + 8], "little")
