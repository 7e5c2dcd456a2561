"""Follows whichever policy would do best here and now, without knowing which that is.

Each expert runs in full on the stream of accesses, over keys only: its cache is a ghost. The
leader is the expert with most hits lately. When room is needed, a block goes that the leader does
not hold (a stray); one exists, because the leader has made room for the incoming block too.

Why this costs little (C: capacity; debt: blocks the leader holds and we do not):

1. Under one leader, an access that only we miss lowers the debt by one, one that both miss or only
   the leader misses never raises it. So from taking over to giving up, our misses are at most the
   leader's plus the debt at the take-over, which is at most C and is known exactly beforehand.
2. A leader takes over only when its lead in discounted hits exceeds a share of that debt, the price,
   so every take-over is backed by hits that were really missed.
3. A lead can still mislead: on a stream that sweeps to and fro, each of two equally good experts is
   ahead just after its own hits came. So a take-over is judged by its outcome: if we had fewer hits
   since than the expert that we left, the price doubles, else it halves. After a few that lost in
   a row, only a lead of more than the whole debt pays for the next.
4. Against the best expert over a whole stream in S stationary stretches we lose the debt of the
   take-overs, by 3 a few times S times C, plus what was missed until the lead was large enough: at
   most the price times C hits for each expert and stretch, over the share of hits remembered.

An adversary who reads the leader can do worse to any such rule; streams do not read it. While
strays last they are hits that no expert has: that is how adaptive can beat them all.

Refused: LeCaR and Cacheus, whose regret is about choices of single victims and which, in their own
authors' traces, lose to ARC; sampling the experts (the leader must be complete to be followed);
W-TinyLFU as an expert (libCacheSim's misses 2 to 23 % more than the best on the Mooncake traces from
5 % of the blocks on, and is ahead of both lirs and lru by more than 2 % in 2 of 56 cells).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple, final

from sage_llm_ops.kv_policy.eviction.arc import ARC
from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.fifo import FIFO
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.lfu import LFU
from sage_llm_ops.kv_policy.eviction.lirs import LIRS
from sage_llm_ops.kv_policy.eviction.lru import LRU
from sage_llm_ops.kv_policy.eviction.s3fifo import S3FIFO
from sage_llm_ops.kv_policy.eviction.sieve import SIEVE
from sage_llm_ops.types.errors import ConfigError, IntegrityError, UnknownName
from sage_llm_ops.types.kv import BlockKey

CLASSES: dict[str, type[EvictionPolicy]] = {
    p.name: p for p in (S3FIFO, ARC, LRU, LFU, LIRS, SIEVE, FIFO)
}
EXPERTS = ("s3fifo", "arc", "lru", "lirs")
"""The first leads until another has shown more. Each pays: fifo, lfu and sieve were best where lru or
arc were as good, and each expert more is one more to take for the best by chance."""

PERIOD = 0.5
"""Accesses between two judgements, in capacities."""
KEPT = 0.9
"""Of the hits remembered, from one judgement to the next: about five capacities of memory."""
PRICES = 0.1, 1.6
"""Of the debt, the share that a lead must exceed: the least, and the most."""
BACK_OFF = 2.0
"""By which the price rises after a take-over that lost, and falls after one that gained."""
BATCH = 256
"""Accesses by which experts that do not lead may lag behind: they catch up in one go, which is
three times as fast as one access at a time and delays nothing, for they are only compared."""


@final
class _Expert:
    """A policy over a ghost cache, and how often it would have hit."""

    __slots__ = ("before", "hits", "policy", "score")

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self.hits = 0
        """Since the last judgement."""
        self.before = 0
        self.score = 0.0


class _TakeOver(NamedTuple):
    """Whom we left, and how many hits it and we had until then."""

    left: _Expert
    its_hits: int
    our_hits: int


@final
class Adaptive(EvictionPolicy):
    """Experts chosen by ghost caches. O(experts) an access, amortised."""

    name: ClassVar[str] = "adaptive"

    def __init__(
        self, capacity: int, rules: Rules | None = None, *, experts: Sequence[str] = EXPERTS
    ) -> None:
        super().__init__(capacity, rules)
        if not experts or len(set(experts)) < len(experts):
            raise ConfigError(f"adaptive: experts {list(experts)}; name at least one, each once")
        for name in experts:
            if name not in CLASSES:
                raise UnknownName("expert of adaptive", name, CLASSES)
        self._experts = [_Expert(CLASSES[name](capacity)) for name in experts]
        self._leader = self._experts[0]
        self._room = capacity
        """Of the leader's cache."""
        self._late: list[BlockKey] = []
        """Accesses that the others have yet to see."""
        self._held: Any = self._queue()
        """Blocks that are here and that the leader holds."""
        self._strays: Any = self._queue()
        """Blocks that are here and that it does not hold, longest unwanted first."""
        self._foreseen: BlockKey | None = None
        self._period = self._left = max(1, int(PERIOD * capacity))
        self._judged = self._missed = 0
        """Accesses, the first those before the last judgement."""
        self._price = PRICES[0]
        self._last: _TakeOver | None = None
        self.switches = 0

    @property
    def leader(self) -> str:
        """The expert that is followed now."""
        return self._leader.policy.name

    def _touch(self, key: BlockKey) -> bool:
        if key in self._held or key in self._strays:
            self._observe(key)
            return True
        return False

    def _insert(self, key: BlockKey) -> None:
        if key != self._foreseen:
            self._missed += 1
            self._observe(key)
        self._foreseen = None
        self._held[key] = None

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        if incoming is not None and incoming != self._foreseen:
            self._foreseen = incoming
            self._missed += 1
            self._observe(incoming)
        key: BlockKey
        try:
            key = self._strays.popitem(False)[0]
        except KeyError:  # no `incoming`, or the strays may not go
            key = self._held.popitem(False)[0]
        return key

    def _observe(self, key: BlockKey) -> None:
        """One access, hit or miss, as every expert sees it."""
        leader = self._leader.policy
        if leader._touch(key):
            self._leader.hits += 1
        else:
            if self._room:
                self._room -= 1
            else:
                gone = leader._evict(key)
                if gone in self._held:
                    del self._held[gone]
                    self._strays[gone] = None
            leader._insert(key)
            if key in self._strays:
                del self._strays[key]
                self._held[key] = None
        self._late.append(key)
        self._left -= 1
        if not self._left:
            self._judge()
        elif len(self._late) >= BATCH:
            self._catch_up()

    def _catch_up(self) -> None:
        for expert in self._experts:
            if expert is not self._leader:
                expert.hits += expert.policy.replay(self._late)
        self._late.clear()

    def _judge(self) -> None:
        self._left = self._period
        self._judged += self._period
        self._catch_up()
        for expert in self._experts:
            expert.score = expert.score * KEPT + expert.hits
            expert.before += expert.hits
            expert.hits = 0
        best = max(self._experts, key=lambda expert: expert.score)
        lead = best.score - self._leader.score
        if lead <= 0.0:
            return
        wanted = sum(1 for key in self if key in best.policy)
        price = self._learnt_price()
        if lead > price * (len(best.policy) - wanted):
            self._price = price
            self._follow(best)

    def _learnt_price(self) -> float:
        """By what came of the last take-over."""
        if self._last is None:
            return self._price
        left, its_hits, our_hits = self._last
        lost = self._judged - self._missed - our_hits < left.before - its_hits
        least, most = PRICES
        return min(most, self._price * BACK_OFF) if lost else max(least, self._price / BACK_OFF)

    def _follow(self, expert: _Expert) -> None:
        self._last = _TakeOver(self._leader, self._leader.before, self._judged - self._missed)
        self._leader = expert
        self._room = self.capacity - len(expert.policy)
        self.switches += 1
        for source, target, held in (
            (self._strays, self._held, True),
            (self._held, self._strays, False),
        ):
            for key in [key for key in source if (key in expert.policy) == held]:
                del source[key]
                target[key] = None

    def _forget(self, key: BlockKey) -> None:
        if key in self._held:
            del self._held[key]
        else:
            del self._strays[key]
        self._catch_up()
        for expert in self._experts:
            if key in expert.policy:
                expert.policy._forget(key)
        self._room = self.capacity - len(self._leader.policy)

    def _state(self) -> str:
        scores = ", ".join(f"{e.policy.name} {e.score + e.hits:.0f}" for e in self._experts)
        return f"follows {self.leader}, {len(self._strays)} strays; hits lately: {scores}"

    def __contains__(self, key: object) -> bool:
        return key in self._held or key in self._strays

    def __len__(self) -> int:
        return len(self._held) + len(self._strays)

    def __iter__(self) -> Iterator[BlockKey]:
        return chain(self._strays, self._held)

    def _check(self) -> None:
        policy = self._leader.policy
        if any(key not in policy and key != self._foreseen for key in self._held):
            raise IntegrityError(f"adaptive: a block is held that {self.leader} does not hold")
        if any(key in policy for key in self._strays):
            raise IntegrityError(f"adaptive: a stray is in {self.leader}")
        for expert in self._experts:
            expert.policy.check_integrity()
        if self._room != self.capacity - len(policy):
            raise IntegrityError(f"adaptive: room of {self.leader} is miscounted")
