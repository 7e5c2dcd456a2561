"""What comes out of one engine, case by case."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.engines.sim import SimCore, SimEngine, SimOptions
from sage_llm_ops.testing import ManualClock
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Accepted, Done, EngineEvent, Failed, Tokens


def make(prompt: list[int], index: int = 1, **fields: Any) -> PlanNode:
    sampling = fields.pop("sampling", SamplingParams(max_tokens=fields.pop("out", 8)))
    return PlanNode(
        id=NodeId(index),
        request=RequestId("r"),
        worker="w",
        attempt=1,
        tokens=array("i", prompt).tobytes(),
        n_tokens=len(prompt),
        sampling=sampling,
        **fields,
    )


def finish(core: SimCore, *nodes: PlanNode) -> list[EngineEvent]:
    for node in nodes:
        core.submit(node, 0.0)
    events: list[EngineEvent] = []
    while (wake := core.next_wake()) is not None:
        events += [event for _, event in core.advance(wake)]
        core.check_integrity()
    assert not core.busy
    return events


def answer(options: SimOptions, node: PlanNode) -> list[int]:
    events = finish(SimCore(options), node)
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Done)
    ids: list[int] = []
    for event in events[1:-1]:
        assert isinstance(event, Tokens)
        assert event.offset == node.offset + len(ids), "offsets are contiguous"
        ids += event.ids
    assert events[-1].n_tokens == len(ids)
    return ids


@pytest.mark.parametrize("timing", ["instant", "polynomial"])
@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 31_999), min_size=1, max_size=40), st.integers(2, 20), st.data())
def test_a_continuation_is_exact(
    timing: str, prompt: list[int], out: int, data: st.DataObject
) -> None:
    options = SimOptions(timing=timing)
    whole = answer(options, make(prompt, out=out))
    cut = data.draw(st.integers(1, out - 1))
    rest = answer(options, make(prompt + whole[:cut], out=out - cut, offset=cut))
    assert whole[:cut] + rest == whole


def test_a_trace_node_continues_too() -> None:
    options = SimOptions(block_size=4)

    def node(n: int, out: int, offset: int) -> PlanNode:
        return PlanNode(
            id=NodeId(1),
            request=RequestId("r"),
            worker="w",
            attempt=1,
            n_tokens=n,
            offset=offset,
            sampling=SamplingParams(max_tokens=out),
            blocks=(7, 8, 9),
            block_size=4,
        )

    whole = answer(options, node(10, 9, 0))
    assert len(set(whole)) > 5
    assert answer(options, node(14, 5, 4)) == whole[4:]


def test_different_prompts_get_different_answers() -> None:
    options = SimOptions(timing="instant")
    assert answer(options, make([1, 2, 3])) != answer(options, make([1, 2, 4]))


def test_instant_answers_at_once() -> None:
    core = SimCore(SimOptions(timing="instant"))
    core.submit(make([1, 2, 3]), 5.0)
    assert core.next_wake() == 5.0
    assert [(when, type(event)) for when, event in core.advance(5.0)] == [
        (5.0, Accepted), (5.0, Tokens), (5.0, Done),
    ]  # fmt: skip
    assert core.next_wake() is None


def test_the_published_polynomial() -> None:
    core = SimCore(SimOptions(prefix_cache=False))
    core.submit(make([1] * 1000, out=3), 0.0)
    times = [when for when, event in core.advance(1e3) if isinstance(event, Tokens)]
    prefill = (4.209989e-7 * 1000**2 + 1.518344e-2 * 1000 + 16.50142) / 1000
    p = 16 / 16_384
    decode = (-25.74 * p * p + 54.01 * p + 5.74) / 1000
    assert times == pytest.approx([prefill, prefill + decode, prefill + 2 * decode], abs=1e-7)


def test_the_prefix_cache_never_gives_the_whole_prompt() -> None:
    for timing in ("instant", "polynomial"):
        core = SimCore(SimOptions(block_size=4, timing=timing))
        prompt = list(range(12))
        finish(core, make(prompt, 1))
        done = finish(core, make(prompt, 2))[-1]
        assert isinstance(done, Done) and done.cached == 8
        longer = finish(core, make([*prompt, 5], 3))[-1]
        assert isinstance(longer, Done) and longer.cached == 12
        other = finish(core, make([9, *prompt], 4))[-1]
        assert isinstance(other, Done) and other.cached == 0


def test_trace_blocks_that_are_larger_than_the_engines() -> None:
    core = SimCore(SimOptions(block_size=4))
    node = make([], 1, blocks=(1, 2), block_size=8, out=2)
    node.n_tokens = 14
    again = make([], 2, blocks=(1, 3), block_size=8, out=2)
    again.n_tokens = 14
    finish(core, node)
    done = finish(core, again)[-1]
    assert isinstance(done, Done) and done.cached == 8
    odd = make([], 3, blocks=(1, 3), block_size=7)
    odd.n_tokens = 14
    failed = finish(core, odd)[-1]
    assert isinstance(failed, Failed) and "block_size" in failed.message


@pytest.mark.parametrize("count", [0, 64, 100])
def test_a_prompt_that_can_never_fit(count: int) -> None:
    (failed,) = finish(SimCore(SimOptions(kv_blocks=8, block_size=8)), make([1] * count))
    assert isinstance(failed, Failed) and failed.code == "invalid_request"
    assert "kv_blocks=8" in failed.message


def test_a_token_buffer_of_another_length() -> None:
    node = make([1, 2, 3])
    node.n_tokens = 4
    (failed,) = finish(SimCore(SimOptions()), node)
    assert isinstance(failed, Failed) and "n_tokens=4" in failed.message


def test_an_answer_ends_where_the_model_does() -> None:
    done = finish(SimCore(SimOptions(max_model_len=20)), make([1] * 15, out=50))[-1]
    assert isinstance(done, Done) and (done.n_tokens, done.finish_reason) == (5, "length")


def test_stop_tokens_and_their_minimum() -> None:
    options = SimOptions(vocab_size=50)
    ids = answer(options, make([1, 2], out=30))
    stop = ids[4]
    first = ids.index(stop) + 1

    def end(**sampling: Any) -> Done:
        node = make([1, 2], sampling=SamplingParams(max_tokens=30, **sampling))
        done = finish(SimCore(options), node)[-1]
        assert isinstance(done, Done)
        return done

    assert (end(stop_token_ids=(stop,)).n_tokens, end(stop_token_ids=(stop,)).finish_reason) == (
        first, "stop",
    )  # fmt: skip
    assert end(stop_token_ids=(stop,), min_tokens=30).n_tokens == 30
    options = SimOptions(vocab_size=50, eos_token_id=stop, visible_tokens=False)
    assert end().n_tokens == first
    assert end(ignore_eos=True).n_tokens == 30


def test_embeddings() -> None:
    node = make([1, 2, 3], task="embed")
    (refused,) = finish(SimCore(SimOptions()), node)
    assert isinstance(refused, Failed) and refused.code == "capability"
    for timing in ("instant", "polynomial"):
        events = finish(SimCore(SimOptions(tasks=("embed",), timing=timing)), node)
        assert [type(event) for event in events] == [Accepted, Done]
        done = events[-1]
        assert isinstance(done, Done) and done.embedding is not None and done.n_tokens == 0
        assert sum(x * x for x in done.embedding) == pytest.approx(1.0)


def test_a_reset_forgets_everything() -> None:
    core = SimCore(SimOptions(block_size=4))
    core.submit(make([1] * 40), 0.0)
    core.reset(0.001)
    core.check_integrity()
    assert core.advance(9.0) == [] and core.next_wake() is None and core.pool.cached == 0


def test_options_are_checked() -> None:
    with pytest.raises(UnknownName, match="block_size"):
        SimOptions.parse({"blok_size": 4})
    with pytest.raises(ConfigError, match="max_num_seqs"):
        SimOptions.parse({"max_num_seqs": "many"})
    with pytest.raises(ConfigError, match="max_num_seqs=300"):
        SimOptions.parse({"max_num_seqs": 300, "max_num_batched_tokens": 200})
    with pytest.raises(UnknownName, match="polynomial"):
        SimOptions.parse({"timing": "polinomial"})
    assert SimOptions.parse({"decode_ms": [0, 0, 5]}).decode_ms == (0.0, 0.0, 5.0)


def test_the_hosted_engine() -> None:
    clock = ManualClock(100.0)
    engine = SimEngine(SimOptions(prefill_ms=(0, 0, 120)), clock=clock, sleep=clock.sleep)
    engine.start()
    engine.submit(make([1, 2, 3], out=2))
    seen: list[EngineEvent] = []
    while engine.busy:
        before = clock()
        seen += engine.step()
        assert clock() - before <= 0.05 + 1e-9
    assert [type(event) for event in seen] == [Accepted, Tokens, Tokens, Done]
    assert engine.step() == [] and engine.stats().running == 0


SCRIPT = """
from sage_llm_ops.engines.sim import SimCore, SimOptions
from tests.engines.sim.test_core import make
core = SimCore(SimOptions(block_size=4, kv_blocks=32, max_num_seqs=4))
for k in range(12):
    core.submit(make([k % 3] * (5 + k), k, out=9), k * 0.01)
print(core.advance(1e3))
"""


def test_every_process_gives_the_same() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }  # fmt: skip
    assert len(said) == 1 and "Done" in said.pop()
