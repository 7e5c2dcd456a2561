"""Several models on one simulated engine: turns, weights, switches, nothing lost."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops import ControlPlaneManager
from sage_llm_ops.core.defaults import serving
from sage_llm_ops.engines.registry import check_instance
from sage_llm_ops.engines.sim import SimCore, SimOptions
from sage_llm_ops.pipeline.simulate import SimReport, simulate
from sage_llm_ops.types.errors import ConfigError, NoInstance
from sage_llm_ops.types.events import Outcome
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.instances import ExecutionInstance
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import Request, RequestMetadata, SamplingParams
from sage_llm_ops.types.wire import Done, Failed, Tokens


def engine(**options: Any) -> SimCore:
    given = {"models": {"a": 1.0, "b": 1.0}, "switch_ms": 100.0, **options}
    return SimCore(SimOptions(**given))


def node(number: int, model: str, n: int = 64, out: int = 40, **fields: Any) -> PlanNode:
    tokens = bytes(4 * n)
    sampling = SamplingParams(max_tokens=out)
    return PlanNode(
        NodeId(number), RequestId(f"r{number}"), "w", 1, tokens=tokens, n_tokens=n, model=model,
        sampling=sampling, **fields,
    )  # fmt: skip


def drive(core: SimCore) -> list[tuple[float, Any]]:
    events = []
    while (wake := core.next_wake()) is not None:
        events += core.advance(wake)
        core.check_integrity()
    return events


def said(events: list[tuple[float, Any]], kind: type) -> list[tuple[float, Any]]:
    return [(at, event) for at, event in events if isinstance(event, kind)]


def test_models_take_turns_by_tokens() -> None:
    """Neither waits for the other's answers to end."""
    core = engine(round_steps=10)
    for number, model in enumerate("ab"):
        core.submit(node(number, model), 0.0)
    order = [event.node for _, event in said(drive(core), Tokens)]
    turns = [order[0]] + [after for before, after in itertools.pairwise(order) if after != before]
    assert turns[:6] == [0, 1, 0, 1, 0, 1]
    assert Counter(order) == {0: 40, 1: 40}


def test_a_switch_costs_and_a_lone_model_pays_none() -> None:
    def end(*models: str, **options: Any) -> float:
        core = engine(round_steps=10, **options)
        for number, model in enumerate(models):
            core.submit(node(number, model, out=11), 0.0)
        return said(drive(core), Done)[-1][0]

    assert end("a", "a") < 0.5
    free, dear = end("a", "b", switch_ms=0.0), end("a", "b", switch_ms=1_000.0)
    assert dear - free == pytest.approx(1.0, abs=1e-6), "one turn each, so one switch"


def test_weights_share_the_decode_steps() -> None:
    core = engine(models={"a": 3.0, "b": 1.0}, round_steps=8, switch_ms=0.0)
    for number, model in enumerate("ab"):
        core.submit(node(number, model, out=400), 0.0)
    tokens = said(drive(core), Tokens)
    early = Counter(event.node for _, event in tokens[:256])
    assert early[NodeId(0)] == pytest.approx(3 * early[NodeId(1)], rel=0.1)


def test_prompts_of_a_model_are_computed_in_groups() -> None:
    core = engine(group_size=2, round_steps=1, switch_ms=0.0)
    for number in range(12):
        core.submit(node(number, "ab"[number % 2], out=1), 0.0)
    firsts = [event.node % 2 for _, event in said(drive(core), Tokens)]
    runs = [len(list(run)) for _, run in itertools.groupby(firsts)]
    assert runs == [3, 2, 2, 2, 1, 2], "the very first one found the engine idle"


def test_models_do_not_share_what_they_computed() -> None:
    core = engine(switch_ms=0.0)
    for number, model in enumerate("aab"):
        core.submit(node(number, model, n=640, out=1), float(number))
    cached = {event.node: event.cached for _, event in said(drive(core), Done)}
    assert cached == {0: 0, 1: 576, 2: 0}


PLAN = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda k: k * 0.0371),
        st.integers(1, 60),
        st.integers(1, 70),
        st.sampled_from("abc"),
    ),
    min_size=1,
    max_size=14,
)


@given(plan=PLAN, blocks=st.sampled_from([17, 24, 64]), group=st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_everybody_ends_once_and_jumps_change_nothing(
    plan: list[tuple[float, int, int, str]], blocks: int, group: int
) -> None:
    """Little memory, so that models are in each other's way."""
    ends = []
    for visible in (True, False):
        core = engine(
            models={"a": 1.0, "b": 2.0, "c": 0.5}, group_size=group, round_steps=4, switch_ms=30.0,
            kv_blocks=blocks, block_size=8, max_num_seqs=4, max_num_batched_tokens=32,
            visible_tokens=visible,
        )  # fmt: skip
        events = []
        for number, (at, n, out, model) in enumerate(sorted(plan)):
            while (wake := core.next_wake()) is not None and wake <= at:
                events += core.advance(wake)
            core.submit(node(number, model, n, out), at)
        events += drive(core)
        assert not core.busy
        done = said(events, Done)
        assert sorted(event.node for _, event in done) == list(range(len(plan)))
        ends.append(sorted((event.node, at, event.n_tokens) for at, event in done))
    assert ends[0] == ends[1]


def test_other_models_and_bad_weights_are_refused_by_name() -> None:
    core = engine()
    core.submit(node(0, "llama"), 0.0)
    ((_, failed),) = said(core.advance(0.0), Failed)
    assert failed.code == "capability" and "this engine has a, b" in failed.message
    assert core.capabilities.models == ("a", "b")
    assert SimCore(SimOptions()).capabilities.models == ()
    with pytest.raises(ConfigError, match=r"models.a=0.0 .* must be above 0"):
        SimOptions(models={"a": 0.0})


# -- through the graph --------------------------------------------------------------------------


def together(policy: str, asked: list[tuple[float, Request]], **options: Any) -> SimReport:
    ends: list[Outcome] = []
    report = simulate(
        serving(scheduling_policy=policy),
        asked,
        instances=2,
        model="a",
        options=SimOptions(visible_tokens=False, **options),
        on_end=ends.append,
    )
    assert all(not end.code for end in ends)
    return report


def asked(
    number: int, model: str, task: str = "generate", at: float = 0.0
) -> tuple[float, Request]:
    sampling = SamplingParams(max_tokens=20)
    request = Request(RequestId(f"r{number}"), model, bytes(4 * 100), 100, sampling, task=task)
    return at, request


def test_aegaeon_on_shared_workers_ends_sooner_than_arrival_order() -> None:
    """With few places, which models come together on a worker is the order's to say."""
    options = {"models": {"a": 1.0, "b": 1.0, "c": 1.0}, "max_num_seqs": 4, "switch_ms": 400.0}
    took = {
        policy: together(
            policy, [asked(n, "abc"[n * 7 % 3]) for n in range(96)], **options
        ).duration_s
        for policy in ("fifo", "aegaeon")
    }
    assert took["aegaeon"] < 0.9 * took["fifo"]


def test_hybrid_on_mixed_workers() -> None:
    """A model that generates and one that embeds share workers; neither task waits for the other."""
    options = {
        "models": {"a": 1.0, "e": 1.0},
        "tasks": ("generate", "embed"),
        "switch_ms": 50.0,
        "max_num_seqs": 4,
    }
    flood = [asked(n, "e", "embed") for n in range(600)]
    few = [asked(1000 + n, "a", at=0.001) for n in range(8)]
    done = {}
    for policy in ("fifo", "hybrid"):
        ends: list[Outcome] = []
        simulate(
            serving(scheduling_policy=policy), [*flood, *few], instances=1, model="a",
            options=SimOptions(visible_tokens=False, **options), on_end=ends.append,
        )  # fmt: skip
        assert [end.code for end in ends] == [""] * 608
        done[policy] = max(end.now for end in ends if end.job.request.task == "generate")
    assert done["hybrid"] < 0.7 * done["fifo"]


async def test_live_and_an_engine_that_cannot_refuses() -> None:
    shared = ExecutionInstance(
        "w0",
        engine="sim",
        model_name="a",
        options={"models": {"a": 1.0, "b": 2.0}, "switch_ms": 1.0},
    )
    async with ControlPlaneManager("aegaeon", enable_pd_separation=False) as manager:
        manager.register_instance(shared)
        for model in "abba":
            metadata = RequestMetadata(prompt="x", model_name=model, max_tokens=4)
            identity = await manager.submit_request(metadata)
            assert (await manager.wait_for_result(identity)).finish_reason == "length"
        with pytest.raises(NoInstance, match=r"models here: \['a', 'b'\]"):
            await manager.submit_request(RequestMetadata(prompt="x", model_name="c"))
    plain = ExecutionInstance("w1", engine="vllm", options={"models": {"a": 1.0}})
    with pytest.raises(ConfigError, match="cannot share a worker between models, only 'sim' can"):
        check_instance(plain, "vllm")
