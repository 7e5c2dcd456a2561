"""Blocks in Python objects: by slot, by key, below each other, and in order of use."""

from __future__ import annotations

from collections import Counter, OrderedDict

from sage_llm_ops.prefix_reuse.keys import ROOT


class Node:
    """One block, or the root of a salt."""

    __slots__ = ("born", "children", "data", "held", "is_root", "key", "parent", "slot")

    def __init__(self, slot: int, born: int, parent: Node | None, key: int, data: bytes) -> None:
        self.slot, self.born, self.parent, self.key, self.data = slot, born, parent, key, data
        self.children: dict[bytes, Node] = {}
        self.held: set[tuple[int, int]] = set()
        """Holder and plane."""
        self.is_root = False


class Nodes:
    """All of one tree. Slots are given again; with its birth one is never the same."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.top = Node(0, 0, None, ROOT & bits, b"")
        self.top.is_root = True
        self.roots: dict[bytes, Node] = {}
        self.by_slot: dict[int, Node] = {}
        self.births: Counter[int] = Counter()
        self.order: OrderedDict[int, None] = OrderedDict()
        """Slots of blocks, least recently used first."""
        self.by_key: dict[int, list[Node]] = {}
        self._free: list[int] = []

    def make(self, parent: Node, key: int, data: bytes, *, is_root: bool = False) -> Node:
        """A new one, the most recently used."""
        slot = self._free.pop() if self._free else len(self.by_slot) + 1
        node = Node(slot, self.births[slot], parent, key, data)
        node.is_root = is_root
        self._place(node)
        return node

    def _place(self, node: Node) -> None:
        assert node.parent is not None
        self.by_slot[node.slot] = node
        self.by_key.setdefault(node.key, []).append(node)
        if node.is_root:
            self.roots[node.data] = node
        else:
            node.parent.children[node.data] = node
            self.order[node.slot] = None

    def unmake(self, node: Node) -> None:
        """Nothing follows it."""
        same = self.by_key[node.key]
        same.remove(node)
        if not same:
            del self.by_key[node.key]
        if node.is_root:
            del self.roots[node.data]
        else:
            assert node.parent is not None
            del node.parent.children[node.data]
            del self.order[node.slot]
        del self.by_slot[node.slot]
        self.births[node.slot] += 1
        self._free.append(node.slot)

    def touch(self, node: Node | None) -> None:
        """A path was used, down to here: its end is older than its beginning."""
        while node is not None and not node.is_root:
            self.order.move_to_end(node.slot)
            node = node.parent

    def clone(self) -> Nodes:
        """A copy to look things up in: who is least recently used it does not know."""
        made = Nodes(self.bits)
        copies: dict[int, Node] = {0: made.top}
        for slot in sorted(self.by_slot, key=lambda s: not self.by_slot[s].is_root):
            self._copy(self.by_slot[slot], made, copies)
        made.births = self.births.copy()
        return made

    def _copy(self, node: Node, made: Nodes, copies: dict[int, Node]) -> None:
        """Parents first, however long the path is."""
        path = []
        while node.slot not in copies:
            path.append(node)
            assert node.parent is not None
            node = node.parent
        for node in reversed(path):
            assert node.parent is not None
            new = Node(node.slot, node.born, copies[node.parent.slot], node.key, node.data)
            new.is_root, new.held = node.is_root, set(node.held)
            copies[node.slot] = new
            made._place(new)

    def check(self) -> str:
        """What does not fit together; empty where everything does."""
        for node in self.by_slot.values():
            parent = node.parent
            if parent is None or (
                parent is not self.top and self.by_slot.get(parent.slot) is not parent
            ):
                return "a block below one that is gone"
            if not node.is_root and parent.children.get(node.data) is not node:
                return "a block that its parent does not know"
            if node not in self.by_key.get(node.key, ()):
                return "a block that its own key does not find"
        if {s for s, node in self.by_slot.items() if not node.is_root} != set(self.order):
            return "a broken order of use"
        return ""
