"""One block of the tree in Python."""

from __future__ import annotations


class Node:
    """Or the root of a salt."""

    __slots__ = ("born", "children", "data", "held", "is_root", "key", "parent", "slot")

    def __init__(self, slot: int, born: int, parent: Node | None, key: int, data: bytes) -> None:
        self.slot, self.born, self.parent, self.key, self.data = slot, born, parent, key, data
        self.children: dict[bytes, Node] = {}
        self.held: set[tuple[int, int]] = set()
        """Holder and plane."""
        self.is_root = False
