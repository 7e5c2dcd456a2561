"""LIRS (Jiang and Zhang, SIGMETRICS 2002): who was used twice within a short time stays.

What counts is not when a block was used last but how many others were used between its last two
uses. Blocks in which that is little (`near`) have all of the cache but a hundredth; the others are
on `trial`, in the order in which they came, and one of them goes. `stack` holds the recent uses of
both, and of blocks that left the trial, down to the oldest of `near`: who is used again while it is
in the stack came back sooner than that one did, and takes its place.

The paper bounds the stack by nothing. Here, as in libCacheSim, it holds at most two caches: the
ghost that left longest ago is forgotten. (libCacheSim also demotes a `near` block where one on trial
and outside the stack is used; the paper does not, and neither do we.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar, final

from sage_llm_ops.kv_policy.eviction.base import EvictionPolicy
from sage_llm_ops.kv_policy.eviction.guard import Rules
from sage_llm_ops.kv_policy.eviction.queues import Ghosts
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.kv import BlockKey

TRIAL_SHARE = 0.01
STACK_CACHES = 2


@final
class LIRS(EvictionPolicy):
    """Ranks by the distance between uses, so that a loop larger than the cache still hits. O(1)
    amortised: what pruning takes off the stack was put there by a use."""

    name: ClassVar[str] = "lirs"

    def __init__(self, capacity: int, rules: Rules | None = None) -> None:
        super().__init__(capacity, rules)
        self._near_size = capacity - max(1, int(TRIAL_SHARE * capacity))
        self._stack_size = STACK_CACHES * capacity
        self._near: Any = self._queue()
        self._trial: Any = self._queue()
        self._stack: OrderedDict[BlockKey, None] = OrderedDict()
        """By last use, the oldest first: that one is in `near`."""
        self._ghosts: Ghosts = OrderedDict()
        """In the stack and not here."""
        self._foreseen: BlockKey | None = None
        self._was_here = False

    def _touch(self, key: BlockKey) -> bool:
        stack = self._stack
        if key in self._near:
            oldest = next(iter(stack))
            stack.move_to_end(key)
            self._near.move_to_end(key)
            if key == oldest:
                self._prune()
            return True
        if key not in self._trial:
            return False
        if key in stack:
            del self._trial[key]
            self._enter(key)
        else:
            stack[key] = None
            self._trial.move_to_end(key)
            self._prune_empty()
        return True

    def _insert(self, key: BlockKey) -> None:
        if key != self._foreseen:
            self._foresee(key)
        self._foreseen = None
        if self._was_here or len(self._near) < self._near_size:
            self._enter(key)
        else:
            self._stack[key] = None
            self._trial[key] = None
            self._prune_empty()
        if len(self._stack) > self._stack_size:
            del self._stack[self._ghosts.popitem(False)[0]]

    def _foresee(self, key: BlockKey) -> None:
        """A ghost that is asked for stops being one before room is made for it."""
        self._foreseen = key
        self._was_here = key in self._ghosts
        if self._was_here:
            del self._ghosts[key]
            del self._stack[key]

    def _enter(self, key: BlockKey) -> None:
        """It is used; it takes the place of the block in `near` that was used longest ago."""
        stack, near = self._stack, self._near
        stack[key] = None
        stack.move_to_end(key)
        near[key] = None
        if len(near) > self._near_size:
            oldest = stack.popitem(False)[0]
            del near[oldest]
            self._trial[oldest] = None
            self._prune()

    def _prune(self) -> None:
        """Down to the oldest of `near`: what lies below can not come back sooner than that one."""
        stack, near, ghosts = self._stack, self._near, self._ghosts
        while stack:
            oldest = next(iter(stack))
            if oldest in near:
                return
            del stack[oldest]
            if oldest in ghosts:
                del ghosts[oldest]

    def _prune_empty(self) -> None:
        if not self._near:
            self._prune()

    def _evict(self, incoming: BlockKey | None) -> BlockKey:
        if incoming is not None and incoming != self._foreseen:
            self._foresee(incoming)
        key: BlockKey
        try:
            key = self._trial.popitem(False)[0]
        except KeyError:  # nothing on trial is evictable
            key = self._near.popitem(False)[0]
            del self._stack[key]
            self._prune()
            return key
        if key in self._stack:
            self._ghosts[key] = None
        return key

    def _forget(self, key: BlockKey) -> None:
        if key in self._near:
            del self._near[key]
        else:
            del self._trial[key]
        if key in self._stack:
            del self._stack[key]
            self._prune()

    def _state(self) -> str:
        return f"{len(self._near)} near, {len(self._trial)} on trial"

    def __contains__(self, key: object) -> bool:
        return key in self._near or key in self._trial

    def __len__(self) -> int:
        return len(self._near) + len(self._trial)

    def __iter__(self) -> Iterator[BlockKey]:
        return chain(self._trial, self._near)

    def _check(self) -> None:
        lists = (self._near, self._trial, self._ghosts)
        if len(set(chain(*lists))) != sum(map(len, lists)):
            raise IntegrityError("lirs: a block is in two lists")
        if len(self._near) > self._near_size or len(self._stack) > self._stack_size:
            raise IntegrityError(
                f"lirs: {len(self._near)} near of {self._near_size}, "
                f"{len(self._stack)} in a stack of {self._stack_size}"
            )
        stacked = self._stack.keys()
        if not (set(self._near) <= stacked and set(self._ghosts) <= stacked):
            raise IntegrityError("lirs: a near block or a ghost is not in the stack")
        if not stacked <= set(chain(*lists)):
            raise IntegrityError("lirs: a block is in the stack and nowhere else")
        if stacked and next(iter(stacked)) not in self._near:
            raise IntegrityError("lirs: the stack does not end with a near block")
