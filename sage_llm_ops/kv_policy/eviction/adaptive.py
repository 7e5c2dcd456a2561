"""Follows whichever policy would do best here and now, without knowing which that is.

Each expert runs in full on the stream of accesses, over keys only: its cache is a ghost. The
leader is the expert with most hits lately. When room is needed, a block goes that the leader does
not hold (a stray); one exists, because the leader has made room for the incoming block too.

Why this costs little (C: capacity; debt: blocks the leader holds and we do not):

1. Under one leader, an access that only we miss lowers the debt by one, one that both miss or only
   the leader misses never raises it. So from taking over to giving up, our misses are at most the
   leader's plus the debt at the take-over, which is at most C and is known exactly beforehand.
2. A leader takes over only when its lead in discounted hits exceeds a fixed share of that debt
   (`PRICE_SHARE`), so every take-over is backed by hits that were really missed, and experts that
   are equally good do not alternate.
3. Against the best expert over a whole stream in S stationary stretches we lose the debt of the
   take-overs, at most S times C, plus what was missed until the lead was large enough: at most
   PRICE_SHARE times C hits for each expert and stretch, over the share of hits still remembered.

An adversary who reads the leader can do worse to any such rule; streams do not read it. While
strays last they are hits that no expert has: that is how adaptive can beat them all.

Refused: LeCaR and Cacheus, whose regret is about choices of single victims and which, in their own
authors' traces, lose to ARC; sampling the experts (the leader must be complete to be followed).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.arc import ARC
from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.fifo import FIFO
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.lfu import LFU
from sage_llm_ops.kv_policy.eviction.lru import LRU
from sage_llm_ops.kv_policy.eviction.s3fifo import S3FIFO
from sage_llm_ops.types.errors import ConfigError, IntegrityError, UnknownName
from sage_llm_ops.types.kv import BlockKey

CLASSES: dict[str, type[EvictionPolicy]] = {p.name: p for p in (S3FIFO, ARC, LRU, LFU, FIFO)}
EXPERTS = ("s3fifo", "arc", "lru", "lfu")
"""The first leads until another has shown more. FIFO is not among them: it was never the best."""

PERIOD = 0.5
"""Accesses between two judgements, in capacities."""
KEPT = 0.9
"""Of the hits remembered, from one judgement to the next: about five capacities of memory."""
PRICE_SHARE = 0.1
"""Of the debt, that a lead must exceed."""


BATCH = 256
"""Accesses by which experts that do not lead may lag behind: they catch up in one go, which is
three times as fast as one access at a time and delays nothing, for they are only compared."""


@final
class _Expert:
    """A policy over a ghost cache, and how often it would have hit."""

    __slots__ = ("hits", "policy", "score")

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self.hits = 0
        self.score = 0.0


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
            self._observe(key)
        self._foreseen = None
        self._held[key] = None

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        if incoming is not None and incoming != self._foreseen:
            self._foreseen = incoming
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
        self._catch_up()
        for expert in self._experts:
            expert.score = expert.score * KEPT + expert.hits
            expert.hits = 0
        best = max(self._experts, key=lambda expert: expert.score)
        lead = best.score - self._leader.score
        if lead <= 0.0:
            return
        wanted = sum(1 for key in self if key in best.policy)
        if lead > PRICE_SHARE * (len(best.policy) - wanted):
            self._follow(best)

    def _follow(self, expert: _Expert) -> None:
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
