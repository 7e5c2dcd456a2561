"""Jumping over steps changes nothing that can be seen."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.engines.sim import SimCore, SimOptions
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Done, Tokens

TOPICS = st.integers(0, 3)


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[float, str, int, int, int, int]]:
    """Rows (time, verb, node, prompt, out, topic) in time order; times collide on purpose."""
    rows = []
    count = draw(st.integers(1, 14))
    for index in range(count):
        at = draw(st.integers(0, 40)) * draw(st.sampled_from([0.0, 0.01, 0.03125, 0.0071]))
        prompt, out = draw(st.integers(1, 60)), draw(st.integers(1, 60))
        rows.append((at, "submit", index, prompt, out, draw(TOPICS)))
        if draw(st.booleans()) and draw(st.booleans()):
            rows.append((at + draw(st.integers(0, 60)) * 0.01, "cancel", index, 0, 0, 0))
    return sorted(rows, key=lambda row: row[0])


def node_of(index: int, prompt: int, out: int, topic: int, size: int) -> PlanNode:
    blocks = tuple(topic * 1000 + k for k in range(-(-prompt // size)))
    return PlanNode(
        id=NodeId(index),
        request=RequestId(str(index)),
        worker="w",
        attempt=1,
        n_tokens=prompt,
        sampling=SamplingParams(max_tokens=out),
        blocks=blocks,
        block_size=size,
    )


def run(
    options: SimOptions, script: list[tuple[float, str, int, int, int, int]], polls: list[float]
) -> dict[int, tuple[float | None, float, str, int, int]]:
    """Per node: first token's time, end's time, reason, tokens, cached."""
    core = SimCore(options)
    out: list[tuple[float, object]] = []
    for now, verb, index, prompt, length, topic in sorted(
        [*script, *((at, "poll", 0, 0, 0, 0) for at in polls)], key=lambda row: row[0]
    ):
        wake = core.next_wake()
        while wake is not None and wake < now:
            out += core.advance(wake)
            wake = core.next_wake()
        if verb == "submit":
            core.submit(node_of(index, prompt, length, topic, options.block_size), now)
        elif verb == "cancel":
            core.cancel(NodeId(index), now)
        else:
            out += core.advance(now)
        core.check_integrity()
    while (wake := core.next_wake()) is not None:
        out += core.advance(wake)
        core.check_integrity()
    assert not core.busy and core.pool.active == 0
    first: dict[int, float] = {}
    ends: dict[int, tuple[float | None, float, str, int, int]] = {}
    for when, event in out:
        if isinstance(event, Tokens):
            assert event.node not in ends
            first.setdefault(event.node, when)
        if isinstance(event, Done):
            assert event.node not in ends, "two ends"
            ends[event.node] = (
                first.get(event.node),
                when,
                event.finish_reason,
                event.n_tokens,
                event.cached,
            )
    assert [when for when, _ in out] == sorted(when for when, _ in out)
    return ends


@settings(max_examples=400, deadline=None)
@given(
    scripts(),
    st.lists(st.integers(0, 100).map(lambda k: k * 0.0093), max_size=6),
    st.sampled_from([(4, 16, 24, 4), (2, 8, 30, 8), (8, 32, 16, 8), (3, 100, 64, 2)]),
    st.booleans(),
)
def test_a_jump_equals_its_steps(
    script: list[tuple[float, str, int, int, int, int]],
    polls: list[float],
    shape: tuple[int, int, int, int],
    cache: bool,
) -> None:
    seqs, budget, blocks, size = shape
    common = {
        "max_num_seqs": seqs,
        "max_num_batched_tokens": budget,
        "kv_blocks": blocks,
        "block_size": size,
        "prefix_cache": cache,
    }
    micro = run(SimOptions.parse({**common, "visible_tokens": True}), script, [])
    macro = run(SimOptions.parse({**common, "visible_tokens": False}), script, polls)
    fit = {row[2] for row in script if row[1] == "submit" and row[3] < blocks * size}
    assert set(micro) == fit
    assert micro == macro
