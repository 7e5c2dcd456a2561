"""What an engine in the worker's own process keeps to tell of its prefix cache."""

import os
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sage_llm_ops.engines.kv_events.frames import changes
from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.engines.vllm.engine import VllmEngine
from sage_llm_ops.engines.vllm.inproc import InprocCore
from sage_llm_ops.engines.vllm.kept import Kept
from sage_llm_ops.testing.tiny_model import tiny_model
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.kv import KvCleared, KvRemoved, KvStored
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

for name, value in (
    ("OMP_NUM_THREADS", "1"),
    ("VLLM_NO_USAGE_STATS", "1"),
    ("HF_HUB_OFFLINE", "1"),
    ("VLLM_LOGGING_LEVEL", "ERROR"),
):
    os.environ.setdefault(name, value)

BLOCK = 32
BLOCKS = 8


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    made = make_engine(
        "vllm",
        {
            "model": str(tiny_model()),
            "max_model_len": BLOCK * (BLOCKS - 1),
            "engine_args": {"num_gpu_blocks_override": BLOCKS},
        },
    )
    assert isinstance(made, VllmEngine)
    made.start()
    yield made
    made.stop()


def run(engine: VllmEngine, prompt: list[int]) -> None:
    node = PlanNode(
        NodeId(1),
        RequestId("r"),
        "w",
        1,
        tokens=pack(prompt),
        n_tokens=len(prompt),
        sampling=SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True),
    )
    engine.submit(node)
    while engine.busy:
        engine.step()


def prompt(first: int, blocks: int) -> list[int]:
    return [first + k for k in range(blocks * BLOCK + 1)]


def test_blocks_come_go_and_are_cleared(engine: VllmEngine) -> None:
    assert engine.capabilities.tells_cache and not engine.capabilities.kv_events
    run(engine, prompt(100, 3))
    (stored,) = engine.cache_changes()
    assert isinstance(stored, KvStored)
    assert stored.tokens == pack(prompt(100, 3)[:-1])
    assert (len(stored.hashes), stored.block_size, stored.parent) == (3 * 8, BLOCK, None)
    assert engine.cache_changes() == [], "what was taken is gone"

    run(engine, prompt(100, 3))
    assert engine.cache_changes() == [], "it had them"

    run(engine, prompt(1000, 6))
    found = engine.cache_changes()
    gone = b"".join(change.hashes for change in found if isinstance(change, KvRemoved))
    assert gone and gone[:8] in (stored.hashes[at : at + 8] for at in range(0, 24, 8))

    core = engine._core
    assert isinstance(core, InprocCore)
    assert core._engine.reset_prefix_cache()
    run(engine, prompt(100, 1))
    assert [type(change) for change in engine.cache_changes()] == [KvCleared, KvStored]


def test_it_says_what_vllms_own_publisher_would() -> None:
    """Every kind of event, as vLLM makes it: taken here, and decoded from vLLM's frame."""
    from vllm.distributed.kv_events import (
        AllBlocksCleared,
        BlockRemoved,
        BlockStored,
        KVEventBatch,
    )

    def stored(**more: Any) -> BlockStored:
        said = {
            "block_hashes": [7, b"\xff" * 32],
            "parent_block_hash": None,
            "token_ids": [1, 2, 3, 4],
            "block_size": 2,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
        }
        return BlockStored(**(said | more))

    events = [
        stored(),
        stored(parent_block_hash=3, lora_name="law", extra_keys=[("law",), None]),
        stored(extra_keys=[("salt",), None]),
        stored(group_idx=1),
        stored(group_idx=0, kv_cache_spec_kind="sliding_window"),
        stored(group_idx=0, kv_cache_spec_kind="full_attention"),
        BlockRemoved(block_hashes=[7], medium="CPU"),
        AllBlocksCleared(),
    ]
    batch = KVEventBatch(ts=1.0, events=events)
    kept = Kept()
    kept.publish(batch)
    kept.publish(batch)
    assert kept.take() == 2 * changes(msgspec.msgpack.encode(batch))
    kept.publish(batch)
    kept.shutdown()
    assert kept.take() == []
