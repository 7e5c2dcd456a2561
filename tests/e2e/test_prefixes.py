"""Real vLLM workers say what they cache, and the view knows it, block for block."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sage_llm_ops import ExecutionInstance, RequestMetadata
from sage_llm_ops.core import ControlPlane, RestartPolicy, serving
from sage_llm_ops.pipeline.recording import Recording
from sage_llm_ops.pipeline.replay import replay
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.kv import Tier
from sage_llm_ops.types.prefix import Salt
from tests.e2e.fleet import wait_all_up
from tests.pipeline.live_helpers import wait

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SIZE = 32
BLOCKS = 48


class Fleet:
    """Two workers with little room, so that much is evicted."""

    def __init__(self, model: Path, tmp: Path, core: str) -> None:
        self.model, self.record = str(model), tmp / "run.jsonl"
        self.plane = ControlPlane(
            serving(),
            default_engine="vllm",
            record=self.record,
            log_dir=tmp,
            restart=RestartPolicy(first_s=0.05, most_s=0.5, stable_s=0.0),
        )
        options = {
            "core": core,
            "kv_cache_memory_bytes": 64 << 20,
            "max_num_seqs": 4,
            "max_model_len": 1024,
            "engine_args": {"num_gpu_blocks_override": BLOCKS},
        }
        for name in ("w0", "w1"):
            self.plane.register(ExecutionInstance(name, model_name=self.model, options=options))

    @property
    def view(self) -> PrefixFleet:
        found = self.plane.pipeline.plane.prefix
        assert isinstance(found, PrefixFleet)
        return found

    def known(self, worker: str, tokens: list[int]) -> int:
        """Tokens that the worker is known to have, of those a request can reuse."""
        index = self.view.index(SIZE)
        if index is None or worker not in index.numbers:
            return 0
        usable = tokens[: (len(tokens) - 1) // SIZE * SIZE]
        return index.lookup(usable, salt=Salt(self.model), tiers=[Tier.GPU]).of(worker)

    def ask(self, worker: str, tokens: list[int]) -> int:
        """Run a prompt there; what the engine had of it. Returns when the engine has reported."""
        handle = self.plane.submit(
            RequestMetadata(
                prompt_token_ids=tokens,
                pin=worker,
                sampling_params={"max_tokens": 2, "temperature": 0.0, "ignore_eos": True},
            )
        )
        cached = handle.result(120.0).usage.cached_tokens
        wait(lambda: self.known(worker, tokens) == (len(tokens) - 1) // SIZE * SIZE, 20.0)
        return cached


@pytest.mark.parametrize("core", ["inproc", "async"])
def test_the_view_is_what_the_engines_have(
    tiny: Path, tmp_path: Path, nothing_left: None, core: str
) -> None:
    """Evictions, a kill and a restart; then every prompt is where the view says, and only there."""
    rng = random.Random(1)
    fleet = Fleet(tiny, tmp_path, core)
    try:
        fleet.plane.start()
        system = [[rng.randrange(10, 2000) for _ in range(rng.randrange(300))] for _ in range(4)]
        prompts = [
            rng.choice(system) + [rng.randrange(10, 2000) for _ in range(rng.randrange(33, 400))]
            for _ in range(24)
        ]
        wrong = []
        for turn in range(60):
            worker, tokens = rng.choice(["w0", "w1"]), rng.choice(prompts)
            said = fleet.known(worker, tokens)
            cached = fleet.ask(worker, tokens)
            if cached != said:
                wrong.append((turn, worker, len(tokens), said, cached))
            if turn == 30:
                fleet.plane.worker("w1").kill("for a test")
                wait(lambda: fleet.view.told(WorkerId("w1")) is None, 20.0)
                assert all(fleet.known("w1", prompt) == 0 for prompt in prompts)
                wait_all_up(fleet.plane)
        assert wrong == []
        for name in ("w0", "w1"):
            told = fleet.view.told(WorkerId(name))
            assert told is not None
            assert not told.drops, told.drops
            assert fleet.view.index(SIZE).blocks_of(name) <= BLOCKS  # type: ignore[union-attr]
        row = fleet.view.row(0.0)
        assert row["total"]["achieved"] > 0
        assert row["lookup_p50_us"] is not None
        fleet.view.check_integrity()
    finally:
        fleet.plane.stop(10.0)
    again = replay(Recording(fleet.record), fleet.plane.spec).checked()
    assert again.same
