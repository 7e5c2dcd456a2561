"""The engine against its slow twin: times, counts, cache hits and preemptions are equal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.engines.sim import SimCore, SimOptions
from sage_llm_ops.engines.sim.timing import to_ticks
from sage_llm_ops.types.plans import PlanNode
from tests.engines.sim.reference import Reference
from tests.engines.sim.test_core_macro import node_of, run

PLANS = st.lists(
    st.tuples(
        st.integers(0, 60).map(lambda k: k * 0.0113),
        st.integers(1, 50),
        st.integers(1, 70),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=14,
)


def both(options: SimOptions, plan: list[tuple[float, int, int, int]]) -> tuple[Reference, int]:
    plan = sorted(plan, key=lambda row: row[0])
    script = [(at, "submit", i, n, out, topic) for i, (at, n, out, topic) in enumerate(plan)]
    nodes: list[tuple[int, PlanNode]] = [
        (to_ticks(at), node_of(i, n, out, topic, options.block_size))
        for i, (at, n, out, topic) in enumerate(plan)
    ]
    slow = Reference(options)
    slow.run(nodes)
    assert run(options, script, []) == slow.ends
    core = SimCore(options)
    for row, (_, node) in zip(script, nodes, strict=True):
        core.submit(node, row[0])
    core.advance(1e6)
    assert core.scheduler.preemptions == slow.preemptions
    return slow, slow.preemptions


@settings(max_examples=400, deadline=None)
@given(
    PLANS,
    st.sampled_from([(4, 16, 20, 4), (2, 8, 20, 8), (8, 32, 16, 8), (3, 100, 64, 2)]),
    st.booleans(),
    st.booleans(),
)
def test_equal_to_the_slow_twin(
    plan: list[tuple[float, int, int, int]],
    shape: tuple[int, int, int, int],
    cache: bool,
    visible: bool,
) -> None:
    seqs, budget, blocks, size = shape
    plan = [(at, n, out, topic) for at, n, out, topic in plan if n < blocks * size]
    both(
        SimOptions(
            max_num_seqs=seqs,
            max_num_batched_tokens=budget,
            kv_blocks=blocks,
            block_size=size,
            prefix_cache=cache,
            visible_tokens=visible,
        ),
        plan,
    )


def test_the_examples_reach_preemption() -> None:
    options = SimOptions(
        max_num_seqs=4, max_num_batched_tokens=16, kv_blocks=20, block_size=4, visible_tokens=False
    )
    _, preemptions = both(options, [(0.0, 20, 60, topic) for topic in range(4)])
    assert preemptions > 0
