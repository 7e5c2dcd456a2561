"""Slow models of the policies: lists, searched from the front for the first block that may go.

Written from the definitions, not from our code. `may_go(key)` says what the rules allow.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

MayGo = Callable[[Hashable], bool]


def first(blocks: Sequence[Any], may_go: MayGo) -> Any:
    """Removed from the list; None where nothing may go."""
    for index, key in enumerate(blocks):
        if may_go(key):
            del blocks[index]  # type: ignore[attr-defined]
            return key
    return None


class Model:
    def __init__(self, capacity: int, may_go: MayGo = lambda key: True) -> None:
        self.capacity, self.may_go = capacity, may_go
        self.order: list[Any] = []

    def resident(self) -> list[Any]:
        return self.order

    def access(self, key: Any) -> bool | None:
        """None: it was a miss and there was no room."""
        if key in self.resident():
            self.hit(key)
            return True
        self.miss(key)
        full = len(self.resident()) >= self.capacity
        if full and self.evict(key) is None:
            return None
        self.insert(key)
        return False

    def miss(self, key: Any) -> None: ...

    def hit(self, key: Any) -> None: ...

    def insert(self, key: Any) -> None:
        self.order.append(key)

    def evict(self, key: Any) -> Any:
        return first(self.order, self.may_go)


class Fifo(Model): ...


class Lru(Model):
    def hit(self, key: Any) -> None:
        self.order.remove(key)
        self.order.append(key)


class Lfu(Model):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.count: dict[Any, int] = {}

    def hit(self, key: Any) -> None:
        """`order` is the order in which blocks reached their present count."""
        self.count[key] += 1
        self.order.remove(key)
        self.order.append(key)

    def insert(self, key: Any) -> None:
        self.count[key] = 1
        self.order.append(key)

    def evict(self, key: Any) -> Any:
        self.order.sort(key=self.count.__getitem__)
        return first(self.order, self.may_go)


class Arc(Model):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.p = 0.0
        self.t1: list[Any] = []
        self.t2: list[Any] = []
        self.b1: list[Any] = []
        self.b2: list[Any] = []
        self.ghost = 0

    def resident(self) -> list[Any]:
        return self.t1 + self.t2

    def hit(self, key: Any) -> None:
        (self.t1 if key in self.t1 else self.t2).remove(key)
        self.t2.append(key)

    def miss(self, key: Any) -> None:
        c = self.capacity
        self.ghost = 1 if key in self.b1 else 2 if key in self.b2 else 0
        if self.ghost == 1:
            self.p = min(c, self.p + max(1, len(self.b2) / len(self.b1)))
            self.b1.remove(key)
        elif self.ghost == 2:
            self.p = max(0, self.p - max(1, len(self.b1) / len(self.b2)))
            self.b2.remove(key)
        elif len(self.t1) + len(self.b1) == c:
            if len(self.t1) < c:
                del self.b1[0]
        elif len(self.t1 + self.t2 + self.b1 + self.b2) == 2 * c:
            del self.b2[0]

    def evict(self, key: Any) -> Any:
        if not self.ghost and len(self.t1) == self.capacity:
            return first(self.t1, self.may_go)
        n1 = len(self.t1)
        from_t1 = n1 >= 1 and (n1 > self.p or (self.ghost == 2 and n1 == self.p))
        pairs = [(self.t1, self.b1), (self.t2, self.b2)]
        for queue, ghosts in pairs if from_t1 else pairs[::-1]:
            gone = first(queue, self.may_go)
            if gone is not None:
                ghosts.append(gone)
                return gone
        return None

    def insert(self, key: Any) -> None:
        (self.t2 if self.ghost else self.t1).append(key)


class S3Fifo(Model):
    def __init__(self, *args: Any, paper: bool = False) -> None:
        super().__init__(*args)
        self.small_size = max(1, int(0.1 * self.capacity))
        self.small: list[Any] = []
        self.main: list[Any] = []
        self.ghosts: list[Any] = []
        self.uses: dict[Any, int] = {}
        self.evicted = paper
        self.known = False

    def resident(self) -> list[Any]:
        return self.small + self.main

    def hit(self, key: Any) -> None:
        self.uses[key] += 1

    def miss(self, key: Any) -> None:
        self.known = key in self.ghosts
        if self.known:
            self.ghosts.remove(key)

    def evict(self, key: Any) -> Any:
        self.evicted = True
        main_first = len(self.main) > self.capacity - self.small_size or not self.small
        steps = (
            [self.from_main, self.from_small] if main_first else [self.from_small, self.from_main]
        )
        for step in steps:
            gone = step()
            if gone is not None:
                return gone
        return None

    def from_small(self) -> Any:
        while (key := first(self.small, self.may_go)) is not None:
            if self.uses[key] < 2:
                self.ghosts.append(key)
                del self.ghosts[: max(0, len(self.ghosts) - int(0.9 * self.capacity))]
                return key
            self.uses[key] = 0
            self.main.append(key)
        return None

    def from_main(self) -> Any:
        while (key := first(self.main, self.may_go)) is not None:
            if not self.uses[key]:
                return key
            self.uses[key] = min(self.uses[key], 3) - 1
            self.main.append(key)
        return None

    def insert(self, key: Any) -> None:
        self.uses[key] = 0
        spill = not self.evicted and len(self.small) >= self.small_size
        (self.main if self.known or spill else self.small).append(key)


class Sieve(Model):
    """Two lists that meet at the hand."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.behind: list[Any] = []
        self.used: dict[Any, bool] = {}

    def resident(self) -> list[Any]:
        return self.behind + self.order

    def hit(self, key: Any) -> None:
        self.used[key] = True

    def evict(self, key: Any) -> Any:
        for _ in range(3):
            while (gone := first(self.order, self.may_go)) is not None:
                if not self.used[gone]:
                    return gone
                self.used[gone] = False
                self.behind.append(gone)
            self.order, self.behind = self.behind, self.order
        return None

    def insert(self, key: Any) -> None:
        if not self.order:
            self.order, self.behind = self.behind, self.order
        self.used[key] = False
        self.order.append(key)


class Lirs(Model):
    """`stack` is the paper's S with the oldest use first, `order` its Q, `near` its LIR blocks."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.near_size = self.capacity - max(1, int(0.01 * self.capacity))
        self.stack: list[Any] = []
        self.near: list[Any] = []
        self.ghosts: list[Any] = []
        self.known = False

    def resident(self) -> list[Any]:
        return self.order + self.near

    def use(self, key: Any) -> None:
        """On top of the stack, whose end must be near."""
        if key in self.stack:
            self.stack.remove(key)
        self.stack.append(key)
        self.prune()

    def prune(self) -> None:
        while self.stack and self.stack[0] not in self.near:
            gone = self.stack.pop(0)
            if gone in self.ghosts:
                self.ghosts.remove(gone)

    def promote(self, key: Any) -> None:
        self.near.append(key)
        self.use(key)
        if len(self.near) > self.near_size:
            self.near.remove(self.stack[0])
            self.order.append(self.stack.pop(0))
            self.prune()

    def hit(self, key: Any) -> None:
        if key in self.near:
            self.near.remove(key)
            self.near.append(key)
            self.use(key)
        elif key in self.stack:
            self.order.remove(key)
            self.promote(key)
        else:
            self.order.remove(key)
            self.order.append(key)
            self.use(key)

    def miss(self, key: Any) -> None:
        self.known = key in self.ghosts
        if self.known:
            self.ghosts.remove(key)
            self.stack.remove(key)

    def evict(self, key: Any) -> Any:
        gone = first(self.order, self.may_go)
        if gone is None:
            gone = first(self.near, self.may_go)
            if gone is not None:
                self.stack.remove(gone)
                self.prune()
        elif gone in self.stack:
            self.ghosts.append(gone)
        return gone

    def insert(self, key: Any) -> None:
        if self.known or len(self.near) < self.near_size:
            self.promote(key)
        else:
            self.order.append(key)
            self.use(key)
        if len(self.stack) > 2 * self.capacity:
            self.stack.remove(self.ghosts.pop(0))


MODELS: dict[str, type[Model]] = {
    "fifo": Fifo,
    "lru": Lru,
    "lfu": Lfu,
    "arc": Arc,
    "s3fifo": S3Fifo,
    "sieve": Sieve,
    "lirs": Lirs,
}


class Adaptive(Model):
    """The leader's cache is followed; the numbers are those of the class that is tested."""

    def __init__(
        self, *args: Any, experts: Sequence[str] = ("s3fifo", "arc", "lru", "lirs")
    ) -> None:
        super().__init__(*args)
        self.experts = [MODELS[name](self.capacity) for name in experts]
        self.hits = [0] * len(experts)
        self.score = [0.0] * len(experts)
        self.leader = 0
        self.held: list[Any] = []
        self.strays: list[Any] = []
        self.seen = self.missed = 0
        self.total = [0] * len(experts)
        self.price = 0.1
        self.last: tuple[int, int, int] | None = None

    def resident(self) -> list[Any]:
        return self.strays + self.held

    def observe(self, key: Any) -> None:
        for index, expert in enumerate(self.experts):
            self.hits[index] += bool(expert.access(key))
        self.sort()
        self.seen += 1
        if self.seen % max(1, int(0.5 * self.capacity)) == 0:
            self.judge()

    def sort(self) -> None:
        """Into held and strays by what the leader has, each in its order."""
        there = self.experts[self.leader].resident()
        both = (self.strays, self.held)
        self.strays, self.held = (
            [k for k in both[0] if k not in there] + [k for k in both[1] if k not in there],
            [k for k in both[1] if k in there] + [k for k in both[0] if k in there],
        )

    def judge(self) -> None:
        for i, hits in enumerate(self.hits):
            self.score[i] = self.score[i] * 0.9 + hits
            self.total[i] += hits
            self.hits[i] = 0
        best = max(range(len(self.score)), key=self.score.__getitem__)
        lead = self.score[best] - self.score[self.leader]
        debt = len(set(self.experts[best].resident()) - set(self.resident()))
        price, ours = self.price, self.seen - self.missed
        if self.last is not None:
            left, its, ours_then = self.last
            lost = ours - ours_then < self.total[left] - its
            price = min(1.6, 2 * price) if lost else max(0.1, price / 2)
        if lead > 0.0 and lead > price * debt:
            self.price, self.last = price, (self.leader, self.total[self.leader], ours)
            self.leader = best
            self.sort()

    def hit(self, key: Any) -> None:
        self.observe(key)

    def miss(self, key: Any) -> None:
        self.missed += 1
        self.observe(key)

    def evict(self, key: Any) -> Any:
        gone = first(self.strays, self.may_go)
        return first(self.held, self.may_go) if gone is None else gone

    def insert(self, key: Any) -> None:
        self.held.append(key)


MODELS["adaptive"] = Adaptive
