from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.suites.migration import PREFILL, mean_ms, two_tiers
from benchmarks.two_tiers import STRATEGIES, TwoTiers
from sage_llm_ops.kv_policy import MigrationDecision
from sage_llm_ops.kv_policy.cost_benefit import Candidate, CostBenefitModel, PrefillCost
from sage_llm_ops.kv_policy.eviction import eviction_policy
from sage_llm_ops.kv_policy.history import AccessHistory
from sage_llm_ops.kv_policy.lifetime import LifetimePredictor
from sage_llm_ops.kv_policy.links import Link
from sage_llm_ops.kv_policy.migration import MigrationPolicy
from sage_llm_ops.pipeline.block_streams import BlockStream, read_blocks
from sage_llm_ops.types.errors import ConfigError
from sage_llm_ops.types.kv import Tier
from tests.kv_policy.recorded import DATA, FILES, TRUTH, made_up

MB = 1_000_000


def _model(gigabytes_per_s: float = 20.0, **prefill: float) -> CostBenefitModel:
    """Blocks that are used again after 10 s if they did not end a prompt, and never if they did."""
    predictor = LifetimePredictor(AccessHistory())
    for n in range(600):
        predictor.note(("own", n), float(n), tail=True)
        predictor.note(("shared", n), float(n))
        predictor.note(("shared", n - 10), float(n))
    cost = PrefillCost(prefill.get("fixed", 10.0), prefill.get("linear", 0.02), 0.0)
    link = Link(gigabytes_per_s, latency_ms=0.0)
    return CostBenefitModel(predictor, link, cost, block_tokens=512, block_bytes=60 * MB)


def test_a_link_serves_one_after_the_other() -> None:
    link = Link(10.0, latency_ms=1.0)
    assert link.transfer_ms(20 * MB) == 3.0
    assert link.send(100.0, 20 * MB) == 103.0
    assert link.wait_ms(101.0) == 2.0
    assert link.send(101.0, 20 * MB) == 106.0
    assert link.wait_ms(200.0) == 0.0
    with pytest.raises(ConfigError, match=r"0\.0 GB/s"):
        Link(0.0)


def test_fetch_or_compute() -> None:
    model = _model()
    # 3 ms a block over the link, 10.24 ms to compute it; nothing left to compute saves the fixed part.
    assert model.fetch(0, 4, 2048, 0.0)
    assert not model.fetch(0, 0, 2048, 0.0)
    model.link.send(0.0, 60 * MB * 20)
    assert not model.fetch(0, 4, 2048, 0.0)  # 60 ms behind
    assert model.fetch(0, 4, 2048, 50.0)
    assert not _model(gigabytes_per_s=3.0).fetch(0, 4, 4096, 0.0)


def test_prefill_is_paid_for_what_is_left() -> None:
    cost = PrefillCost(10.0, 0.1, 0.001)
    assert cost.rest_ms(0, 100) == cost.prompt_ms(100) == 30.0
    assert cost.rest_ms(50, 100) == pytest.approx(10.0 + 0.1 * 50 + 0.001 * (100**2 - 50**2))
    assert cost.rest_ms(100, 100) == 0.0


def test_what_a_move_is_worth() -> None:
    model, now = _model(), 600_000.0
    model.predictor.note("shared", 600.0)
    model.predictor.note("own", 600.0, tail=True)
    shared, own = (model.evaluate_migration(Candidate(k, 0), now, 60.0) for k in ("shared", "own"))
    assert shared.benefit_ms == pytest.approx(0.02 * 512 - 3.0, rel=0.1)
    assert own.benefit_ms < 0.1 * shared.benefit_ms
    assert (shared.cost_ms, shared.harm_ms) == (0.0, 0.0)  # nobody ever wanted the link
    carrying = model.evaluate_migration(Candidate("own", 0, carries_ms=5.0), now, 60.0)
    assert carrying.benefit_ms > 5.0
    displacing = model.evaluate_migration(Candidate("own", 0, displaces="shared"), now, 60.0)
    assert displacing.net_ms < 0.0 < displacing.harm_ms
    for n in range(60):
        model.fetch(0, 4, 2048, now + n)
    assert model.cost_ms(now + 60.0) > 0.0
    assert model.cost_ms(now + 60.0, queued=9) == pytest.approx(10 * model.cost_ms(now + 60.0))
    # No block is worth it where computing is faster than the link.
    slow = _model(gigabytes_per_s=1.0)
    slow.predictor.note("shared", 600.0)
    assert slow.evaluate_migration(Candidate("shared", 0), now, 60.0).benefit_ms == 0.0


def test_a_plan_takes_the_best_and_stops_where_it_contends_with_itself() -> None:
    model, now = _model(), 600_000.0
    keys = [f"shared {n}" for n in range(40)]
    for key in keys:
        model.predictor.note(key, 600.0)
    model.predictor.note("own", 600.0, tail=True)
    policy = MigrationPolicy(model)
    candidates = [Candidate("own", 0), *(Candidate(key, 0) for key in keys)]
    for n in range(2000):
        model.fetch(0, 4, 2048, now + n / 10)
    decision = policy.plan(candidates, now + 200.0, 60.0)
    assert decision.plan is not None
    assert (decision.plan.src_tier, decision.plan.dst_tier) == (Tier.GPU, Tier.CPU)
    assert 0 < len(decision.plan.block_ids) < 40
    assert "own" not in decision.plan.block_ids
    assert decision.net_benefit > 0.0
    assert policy.plan([], now, 60.0) == MigrationDecision(
        None, 0.0, "none of 0 blocks is worth moving"
    )


def test_what_was_left_and_came_back_is_not_left_again() -> None:
    """Blocks that end a prompt were never used again, until now."""
    model, now = _model(), 600_000.0
    policy = MigrationPolicy(model, remembered=50)
    keys = [f"own {n}" for n in range(101)]
    for key in keys:
        model.predictor.note(key, 600.0, tail=True)
    for n in range(2000):
        model.fetch(0, 4, 2048, now + n / 10)
    assert policy.doubt == 1.0
    net = [policy.plan([Candidate(key, 0)], now + 200.0, 60.0).net_benefit for key in keys[:2]]
    assert net[0] == net[1] > 0.0  # nothing is known to be lost by moving: move
    model.link.send(now + 200.0, 60 * MB * 20)
    for key in keys[2:]:
        policy.plan([Candidate(key, 0)], now + 200.0, 60.0)
    assert policy.doubt == pytest.approx(1 / 100, rel=0.02)
    assert policy.plan([Candidate(keys[0], 0)], now + 200.0, 60.0).plan is None
    policy.asked(keys)  # it remembers 50 of them
    assert policy.doubt == pytest.approx(0.5, rel=0.02)
    policy.asked(keys)
    assert policy.doubt == pytest.approx(0.5, rel=0.02)
    policy.check_integrity()
    model.link = Link(20.0, latency_ms=0.0)
    assert policy.plan([Candidate(keys[0], 0)], now + 200.0, 60.0).plan is not None
    with pytest.raises(ConfigError, match="remembers 0 blocks"):
        MigrationPolicy(model, remembered=0)


@given(
    acts=st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=6), st.booleans()), max_size=60),
    remembered=st.integers(1, 8),
)
def test_what_it_remembers_adds_up(acts: list[tuple[list[int], bool]], remembered: int) -> None:
    """A plan or a request over the same keys; the link is always too far behind to be worth it."""
    predictor = LifetimePredictor(AccessHistory())
    link = Link(20.0)
    link.send(0.0, 2_000_000 * MB)
    model = CostBenefitModel(
        predictor, link, PrefillCost(10.0, 0.02, 0.0), block_tokens=512, block_bytes=60 * MB
    )
    model.fetch(0, 1, 512, 0.0)
    policy = MigrationPolicy(model, remembered=remembered)
    for keys, plans in acts:
        if plans:
            decision = policy.plan([Candidate(key, 0) for key in dict.fromkeys(keys)], 1.0, 60.0)
            assert decision.plan is None
        else:
            policy.asked(keys)
        policy.check_integrity()
        assert 0.0 < policy.doubt <= 1.0


LINKS = [1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0]


def _never_worse(stream: BlockStream, link: float) -> None:
    spent = {strategy: mean_ms(stream, link, strategy) for strategy in STRATEGIES}
    assert spent["planned"] <= min(spent["recompute"], spent["always"])


@pytest.mark.parametrize("link", LINKS)
def test_planned_is_never_worse_than_either(link: float) -> None:
    _never_worse(made_up(400), link)


@pytest.mark.skipif(not TRUTH.is_file(), reason="needs the recorded workloads")
@pytest.mark.parametrize("name", ["mooncake_synthetic", "mooncake_conversation_first30min"])
@pytest.mark.parametrize("link", [5.0, 80.0])
def test_nor_on_what_was_recorded(name: str, link: float) -> None:
    _never_worse(read_blocks(DATA / FILES[name], 1000), link)


def test_on_a_fast_link_no_single_request_waits_longer() -> None:
    """Nothing is left, so below lies what `always` has, behind a link that is never busier."""
    stream = made_up(400)
    tiers = {strategy: two_tiers(stream, 40.0, strategy) for strategy in STRATEGIES}
    for at, blocks in zip(stream.at, stream.requests, strict=True):
        took = {name: t.request(at, blocks, 512 * len(blocks)) for name, t in tiers.items()}
        assert took["planned"] <= min(took["always"], took["recompute"]) + 1e-6
    assert set(tiers["planned"].lower) == set(tiers["always"].lower)


def test_an_unknown_strategy_is_refused() -> None:
    pools: Any = [eviction_policy("lru", 4) for _ in range(2)]
    with pytest.raises(ConfigError, match="did you mean 'always'"):
        TwoTiers(*pools, _model(), "alway")
    assert PREFILL.fixed_ms > 0.0
