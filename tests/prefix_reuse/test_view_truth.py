"""PrefixFleet against engines that say what they hold, over lines that lose what they say."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.engines.kv_events.listener import batches
from sage_llm_ops.engines.kv_events.sequence import Next, Sequence
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.kv import PrefixCache
from tests.prefix_reuse.asking import SIZE, request
from tests.prefix_reuse.engine_model import EngineModel


class Line:
    """A publisher with a replay buffer, and a line to us that loses, repeats and delays batches."""

    def __init__(self, view: PrefixFleet, worker: WorkerId, rng: random.Random) -> None:
        self.view, self.worker, self.rng = view, worker, rng
        self.incarnation = 0
        self.start()

    def start(self) -> None:
        """The worker's process starts (again), all of it."""
        self.incarnation += 1
        self.engine = EngineModel(SIZE, 24, seed=str(self.rng.randint(0, 1)))
        self.sent: list[bytes] = []
        self.sequence = Sequence()
        cache = PrefixCache(SIZE, 24, True, self.incarnation)
        self.view.up(self.worker, "m", (), cache)

    def kill(self) -> None:
        self.view.down(self.worker)
        late, old = self.incarnation, [Next(0, one) for one in self.sent[:1]]
        self.start()
        self._tell(old, late)

    def relaunch(self) -> None:
        """The engine alone begins anew, under the same address."""
        self.engine = EngineModel(SIZE, 24)
        self.sent = []
        self.sequence.reconnected()

    def publish(self) -> None:
        payload = self.engine.take()
        if payload is None:
            return
        number, payload = len(self.sent), self.stamped(payload)
        self.sent.append(payload)
        if self.rng.random() < 0.3:
            return  # lost
        self._tell(self.sequence.live(number, payload))
        if self.sequence.asking is not None and self.rng.random() < 0.5:
            self.heal()

    def stamped(self, payload: bytes) -> bytes:
        """No two batches are equal: each carries its time."""
        batch = msgspec.msgpack.decode(payload)
        batch[0] = self.rng.random()
        return msgspec.msgpack.encode(batch)

    def heal(self) -> None:
        while self.sequence.asking is not None:
            for number in range(self.sequence.asking, len(self.sent)):
                self._tell(self.sequence.replayed(number, self.sent[number]))
            self._tell(self.sequence.answered())

    def settle(self) -> None:
        """The last word comes through, and with it what was lost before it."""
        self.engine.events.append({"type": "BlockRemoved", "block_hashes": [], "medium": "GPU"})
        payload = self.engine.take()
        assert payload is not None
        self.sent.append(self.stamped(payload))
        self._tell(self.sequence.live(len(self.sent) - 1, self.sent[-1]))
        self.heal()

    def _tell(self, found: list[Next], incarnation: int | None = None) -> None:
        start = self.incarnation if incarnation is None else incarnation
        for batch in batches(self.worker, start, found, pytest.fail):
            self.view.take(batch)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1 << 30), max_blocks=st.sampled_from([1 << 20, 1 << 20, 60]))
def test_the_view_equals_the_truth_whatever_happened(seed: int, max_blocks: int) -> None:
    """Kills, restarts, clears and gaps in any order."""
    rng = random.Random(seed)
    view = PrefixFleet(max_blocks=max_blocks)
    lines = [Line(view, WorkerId(f"w{number}"), rng) for number in range(3)]
    system = [[rng.randrange(3) for _ in range(rng.randint(0, 12))] for _ in range(3)]
    prompts: list[list[int]] = []
    for _ in range(60):
        line = rng.choice(lines)
        act = rng.random()
        if act < 0.85:
            tokens = rng.choice(system) + [rng.randrange(4) for _ in range(rng.randint(1, 16))]
            prompts.append(tokens)
            line.engine.serve(tokens, rng)
            line.publish()
        elif act < 0.90:
            line.kill()
        elif act < 0.95:
            line.engine.clear()
            line.publish()
        else:
            line.relaunch()
    for line in lines:
        line.settle()
    for tokens in prompts:
        hits = view.match(request([*tokens, 9]), 0.0)
        assert hits is not None
        for line in lines:
            truth = line.engine.holds(tokens)
            if max_blocks == 1 << 20:
                assert hits.get(line.worker, 0) == truth
            else:  # short of memory it may know less, and never more
                assert hits.get(line.worker, 0) <= truth
    view.check_integrity()
