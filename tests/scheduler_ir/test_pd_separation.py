"""PD: what can be split, and what each policy makes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.fleet import Fleet
from sage_llm_ops.scheduler_ir import SPLITTERS, SeparatorOptions, Split
from sage_llm_ops.types.events import Job, Offer
from sage_llm_ops.types.ids import NodeId, RequestId, WorkerId
from sage_llm_ops.types.requests import Request, SamplingParams

SPEED = np.array([16.5, 0.015, 0.0, 4.2e-7, 10.0, 0.0, 2.7e-5])


def fleet_of(*roles: str, splits: bool = True, slots: int = 16) -> Fleet:
    fleet = Fleet()
    for n, role in enumerate(roles):
        fleet.join(WorkerId(f"w{n}"), "m", role=role)
        fleet.up(WorkerId(f"w{n}"), "m", slots, 1 << 17, ("generate",))
        fleet.traits.speed(n, SPEED)
        fleet.traits.splits[n] = splits
    return fleet


def offer(n_prompt: int = 4000, max_tokens: int = 100, **fields: Any) -> Offer:
    sampling = SamplingParams(max_tokens=max_tokens)
    return Offer(1, 0.0, Job(Request(RequestId("a"), "m", b"", n_prompt, sampling, **fields), 1))


def split(policy: str, fleet: Fleet, one: Offer, **options: Any) -> Split:
    return SPLITTERS[policy](SeparatorOptions(**options)).split(one, fleet)


POOLS = ("prefilling", "decoding", "decoding")


def test_never_is_one_fused_node() -> None:
    assert split("never", fleet_of(*POOLS), offer()) == (("fused",), "pd_off", 0.0, False)


@pytest.mark.parametrize("policy", ["always", "threshold", "adaptive", "hash"])
@pytest.mark.parametrize(
    ("roles", "changes", "reason"),
    [
        (("general", "general"), {}, "no_split_pool"),
        (("prefilling", "general"), {}, "no_split_pool"),
        (POOLS, {"n_prompt": 799}, "short: 799 tokens, threshold 800"),
        (POOLS, {"max_tokens": 1}, "one_step"),
        (POOLS, {"task": "embed"}, "one_step"),
    ],
)
def test_what_stays_whole(
    policy: str, roles: tuple[str, ...], changes: dict[str, Any], reason: str
) -> None:
    fleet = fleet_of(*roles)
    one = offer(**changes)
    one.job.needs = ("m", "generate", "")
    assert split(policy, fleet, one)[:2] == (("fused",), reason)


def test_workers_that_cannot_hand_kv_over() -> None:
    found = split("always", fleet_of(*POOLS, splits=False), offer())
    assert found.kinds == ("fused",)
    assert found.reason.startswith("no_kv_transfer")


def test_no_room_in_a_pool() -> None:
    fleet = fleet_of(*POOLS, slots=1)
    fleet.reserve(NodeId(1), 0, 10)
    assert split("always", fleet, offer())[:2] == (("fused",), "no_room_in_pool")


def test_threshold_and_always_and_hash() -> None:
    fleet = fleet_of(*POOLS)
    assert split("threshold", fleet, offer(800)).reason == "800 tokens, threshold 800"
    assert split("always", fleet, offer(5), threshold=0).kinds == ("prefill", "decode")
    assert split("hash", fleet, offer(), share=1.0).kinds == ("prefill", "decode")
    assert split("hash", fleet, offer(), share=0.0).kinds == ("fused",)


def test_the_transfer_is_what_the_link_says() -> None:
    found = split(
        "always", fleet_of(*POOLS), offer(4000),
        kv_bytes_per_token=327_680, link_latency_ms=2.0, link_gb_per_s=50.0,
    )  # fmt: skip
    assert found.transfer_ms == pytest.approx(2.0 + 4000 * 327_680 / 50e6)


def test_adaptive_breaks_even_in_milliseconds() -> None:
    """On idle decoding workers nothing is gained; with decodes to disturb it is."""
    fleet = fleet_of(*POOLS)
    idle = split("adaptive", fleet, offer())
    assert idle.kinds == ("fused",)
    assert "ms apart" in idle.reason and "ms together" in idle.reason
    for node in range(1, 9):
        fleet.reserve(NodeId(node), 1 + node % 2, 500)
    assert split("adaptive", fleet, offer()).kinds == ("prefill", "decode")
    slow = split("adaptive", fleet, offer(), link_gb_per_s=0.1)
    assert slow.kinds == ("fused",), "over a slow link it does not pay"
    for node in range(20, 30):
        fleet.reserve(NodeId(node), 0, 500, 300_000)
    assert split("adaptive", fleet, offer()).kinds == ("fused",), "the prefill pool has a queue"


@pytest.mark.parametrize(
    "wrong", [{"threshold": -1}, {"share": 1.5}, {"kv_bytes_per_token": 0}, {"link_gb_per_s": 0.0}]
)
def test_options_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SeparatorOptions(**wrong)


@given(
    n_prompt=st.integers(800, 60_000),
    load=st.lists(st.integers(0, 15), min_size=3, max_size=3),
    queued=st.lists(st.integers(0, 10_000_000), min_size=3, max_size=3),
    gb_per_s=st.floats(1e-3, 1e6),
    held=st.integers(0, 60_000),
)
@settings(max_examples=80, deadline=None)
def test_a_faster_link_never_ends_a_split(
    n_prompt: int, load: list[int], queued: list[int], gb_per_s: float, held: int
) -> None:
    fleet, node = fleet_of(*POOLS), 0
    for row, (count, work) in enumerate(zip(load, queued, strict=True)):
        for _ in range(count):
            node += 1
            fleet.reserve(NodeId(node), row, 500, work)
    one = offer(n_prompt)
    one.hits = {WorkerId("w1"): min(held, n_prompt)}
    slow = split("adaptive", fleet, one, link_gb_per_s=gb_per_s)
    fast = split("adaptive", fleet, one, link_gb_per_s=2.0 * gb_per_s)
    assert len(slow.kinds) <= len(fast.kinds)
    assert slow.transfer_ms >= fast.transfer_ms or len(slow.kinds) < len(fast.kinds)


@given(
    workers=st.lists(
        st.tuples(
            st.sampled_from(["general", "prefilling", "decoding"]), st.booleans(), st.integers(0, 2)
        ),
        min_size=1,
        max_size=6,
    ),
    policy=st.sampled_from(sorted(SPLITTERS)),
    n_prompt=st.integers(1, 5000),
    max_tokens=st.integers(1, 50),
)
@settings(max_examples=120, deadline=None)
def test_nothing_is_split_that_cannot_be(
    workers: list[tuple[str, bool, int]], policy: str, n_prompt: int, max_tokens: int
) -> None:
    fleet = fleet_of(*(role for role, _, _ in workers), slots=2)
    able, node = set(), 0
    for row, (role, splits, busy) in enumerate(workers):
        fleet.traits.splits[row] = splits
        for _ in range(busy):
            node += 1
            fleet.reserve(NodeId(node), row, 10)
        if splits and busy < 2:
            able.add(role)
    one = offer(n_prompt, max_tokens)
    if not fleet.with_room(one.job.needs).size:
        return  # Route says so; nobody asks
    found = split(policy, fleet, one)
    assert found.reason
    if found.kinds == ("prefill", "decode"):
        assert {"prefilling", "decoding"} <= able
        assert n_prompt >= 800
        assert max_tokens >= 2
        assert policy != "never"
    else:
        assert (found.kinds, found.transfer_ms) == (("fused",), 0.0)
