"""PDSplit: the plan's shape, with its reason; and plans of two nodes through the graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.operators import OPERATORS
from sage_llm_ops.operators.pd_split import PDSplit, PDSplitOptions
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.testing.harness import Harness
from sage_llm_ops.types.errors import ConfigError, UnknownName
from sage_llm_ops.types.events import WorkerJoin
from sage_llm_ops.types.ids import WorkerId

SPLIT = {"pd_policy": "always", "pd_options": {"threshold": 0, "link_latency_ms": 500.0}}


@pytest.fixture
def split(make: Callable[..., Harness]) -> Harness:
    graph = make(**SPLIT)
    for name, role in (("p0", "prefilling"), ("d0", "decoding")):
        graph.join(name, role=role)
        graph.up(name, slots=2, kinds=("fused", "prefill", "decode"))
    return graph


def test_an_unknown_policy_or_option_is_refused(make: Callable[..., Harness]) -> None:
    with pytest.raises(UnknownName, match=r"'sometimes'.*known: adaptive, always"):
        PDSplit(None, PDSplitOptions("sometimes"), "pd_split")
    with pytest.raises(UnknownName, match="did you mean 'threshold'"):
        PDSplit(None, PDSplitOptions("always", {"treshold": 3}), "pd_split")
    with pytest.raises(ConfigError, match="share"):
        PDSplit(None, PDSplitOptions("hash", {"share": 3.0}), "pd_split")
    assert check(serving(), OPERATORS)


def test_two_nodes_with_the_transfer_between(split: Harness) -> None:
    split.arrive("a", max_tokens=8)
    first = split.node_of("a")
    held = split.hands.held[first].node
    assert (held.kind, held.worker) == ("prefill", "p0")
    assert split.plane.fleet.running[:2].tolist() == [1, 1], "the decode's room is taken at once"
    split.done(first, n_tokens=1)
    assert split.on("d0") == [], "its KV is on its way"
    assert split.plane.fleet.running[:2].tolist() == [0, 1]
    split.advance(0.4)
    assert split.on("d0") == []
    split.advance(0.2)
    (second,) = split.on("d0")
    node = split.hands.held[second].node
    assert (node.kind, node.offset, node.n_tokens) == ("decode", 1, held.n_tokens + 1)
    split.done(second, n_tokens=7)
    assert split.codes("a") == [""]
    assert split.end_of("a").job.delivered == 8
    split.check_empty()


def test_an_answer_that_ends_with_its_first_token(split: Harness) -> None:
    split.arrive("a", max_tokens=8)
    split.done(split.node_of("a"), n_tokens=1, reason="stop")
    assert split.codes("a") == [""]
    split.check_empty()


@pytest.mark.parametrize("moment", ["prefill", "transfer", "decode"])
@pytest.mark.parametrize("act", ["cancel", "deadline"])
def test_ended_at_every_moment(split: Harness, moment: str, act: str) -> None:
    split.arrive("a", max_tokens=8, timeout_s=0.4 if moment == "transfer" else 5.0)
    if moment != "prefill":
        split.done(split.node_of("a"), n_tokens=1)
    if moment == "decode":
        split.advance(0.6)
    if act == "cancel":
        split.cancel("a")
    else:
        split.advance(5.0)
    if moment != "transfer":
        split.acknowledge(split.node_of("a"))
    assert split.codes("a") == ["cancelled" if act == "cancel" else "deadline_expired"]
    split.check_empty()


@pytest.mark.parametrize("moment", ["prefill", "decode"])
def test_a_death_goes_on_elsewhere_whole(split: Harness, moment: str) -> None:
    split.arrive("a", max_tokens=8, temperature=0.0)
    if moment == "prefill":
        split.down("p0")
    else:
        split.done(split.node_of("a"), n_tokens=1)
        split.advance(0.6)
        split.down("d0", delivered=3)
    node = split.hands.held[split.node_of("a")].node
    assert node.kind == "fused"
    assert node.offset == (0 if moment == "prefill" else 4)
    split.finish_all()
    assert split.codes("a") == [""]
    assert split.end_of("a").job.delivered == 8
    split.check_empty()


def test_the_whole_fleet_works(make: Callable[..., Harness]) -> None:
    """Regression: PD scores looked up under a wrong key, so that half of the fleet idled."""
    graph = make(**SPLIT)
    for n in range(8):
        graph.join(f"w{n}", role="prefilling" if n < 4 else "decoding")
        graph.up(f"w{n}", slots=8, kinds=("fused", "prefill", "decode"))
    for n in range(16):
        graph.arrive(f"r{n}", max_tokens=4)
    assert graph.plane.fleet.running[:8].tolist() == [4] * 8
    while graph.hands.held:
        for node in list(graph.hands.held):
            prefill = graph.hands.held[node].node.kind == "prefill"
            graph.done(node, n_tokens=1 if prefill else None)
        graph.advance(1.0)
    assert graph.plane.fleet.assigned[:8].tolist() == [4] * 8
    graph.check_empty()


def reasons(graph: Harness) -> list[str]:
    return [entry.reason for entry in graph.ledger.entries() if entry.kind == "place"]


def test_every_placement_says_why_it_is_whole(make: Callable[..., Harness]) -> None:
    """Regression: the reason was made and never written down."""
    graph = make(pd_policy="adaptive")
    graph.add("w0")
    graph.arrive("a")
    assert reasons(graph) == ["least loaded; no_split_pool"]
    off = make()
    off.add("w0")
    off.arrive("a")
    assert reasons(off) == ["least loaded"]


def test_a_budget_that_no_pair_is_within(make: Callable[..., Harness]) -> None:
    graph = make(**SPLIT)
    for name, role, price in (("p0", "prefilling", 0.0), ("d0", "decoding", 1e9)):
        event = WorkerJoin(worker=WorkerId(name), model="m", role=role, price=price)
        graph.step(event)
        graph.up(name, slots=2, kinds=("fused", "prefill", "decode"))
    graph.arrive("a", cost_budget=1.0)
    assert graph.worker_of("a") == "p0"
    assert reasons(graph) == ["least loaded; no pair of workers within its cost_budget has room"]
