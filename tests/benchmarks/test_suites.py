"""Every suite's function with the smallest sizes: that it runs and names its metrics, never how
fast anything was."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from benchmarks.batches import Shape
from benchmarks.metric import Metric
from benchmarks.open_loop import Load
from benchmarks.overloading import Offered
from benchmarks.suites import (
    adaptive,
    gateway,
    kv_events,
    lifetime,
    migration,
    overhead,
    overload,
    pipeline,
    policy,
    prefix,
    prefix_routing,
    sim_core,
    simulate,
    strategies,
)


@pytest.fixture(autouse=True)
def _no_recorded_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """The generated one is the same on every machine."""
    monkeypatch.setenv("SAGE_LLM_OPS_DATA", str(tmp_path))


def _ordered(metrics: dict[str, Metric]) -> None:
    assert all(m.min <= m.value <= m.max and m.n >= 1 for m in metrics.values())


def test_pipeline() -> None:
    load = Load(rate=200.0, seconds=0.2, tokens=3, decode_ms=1.0, instances=2)
    metrics = pipeline.measure(pipeline.Sizes(2, 40, 40, 40, 40, load))
    assert list(metrics) == [
        "closed_loop_rps",
        "open_loop_added_p50_ms",
        "open_loop_added_p99_ms",
        "rss_growth_mb",
        "cost_ratio_64_vs_2",
    ]
    _ordered(metrics)
    # What the engine spent is subtracted, so a good part of the 3 ms a request must be gone, and
    # no request can have been faster than its engine.
    assert metrics["open_loop_added_p50_ms"].min > 0.0
    assert metrics["rss_growth_mb"].n == 40


def test_simulate() -> None:
    metrics = simulate.measure(repeats=2, size=30)
    assert list(metrics) == ["simulate_us_per_request", "simulate_vs_plain_sage_ratio"]
    assert metrics["simulate_us_per_request"].n == 30
    _ordered(metrics)


def test_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        strategies, "policies", lambda: ["fifo", "round_robin", "predicted_latency"]
    )
    metrics = strategies.measure(500, loads=(1.3,))
    assert "mooncake/1.3/predicted_latency/goodput" in metrics
    assert list(metrics)[-4:] == [
        "worst_goodput_vs_fifo",
        "worst_goodput_errors",
        "worst_slo_predicted_vs_round_robin",
        "slo_noise_round_robin",
    ]
    _ordered(metrics)


def test_overload() -> None:
    metrics = overload.measure(overload.Sizes(peak=200, overload_s=0.5, after_s=0.2))
    assert list(metrics) == [
        "refusal_p99_ms",
        "goodput_share",
        "rss_growth_mb",
        "recovery_s",
        "peak_rps",
    ]
    _ordered(metrics)
    assert metrics["goodput_share"].n > 0


def test_recovery_is_counted_to_the_last_half_second_that_did_not_go_as_in_the_calm() -> None:
    calm = [Offered(10.0 + n / 10, 10.1 + n / 10) for n in range(30)]
    assert overload.recovery_s(calm, 0.3) == 0.0
    assert overload.recovery_s([*calm, Offered(10.7, 12.0)], 0.3) == 0.0, "one of many is slow"
    assert overload.recovery_s([*calm, Offered(10.7, 10.7, "overloaded")], 0.3) == 1.0
    assert overload.recovery_s([*calm, *[Offered(11.6, 12.6)] * 9], 0.3) == 2.0


def test_sim_core() -> None:
    metrics = sim_core.measure(repeats=2, size=30)
    assert list(metrics) == ["sim_core_us_per_request", "sim_core_wakes_per_request"]
    _ordered(metrics)


@pytest.mark.skipif(
    find_spec("libcachesim") is None or find_spec("cachetools") is None, reason="needs extra bench"
)
def test_policy() -> None:
    metrics = policy.measure(repeats=1, limit=60)
    names = ("fifo", "lru", "lfu", "arc", "s3fifo", "sieve", "lirs", "adaptive")
    for kind in ("accesses_per_s", "calls_per_s", "bytes_per_block"):
        assert {f"{kind}_{name}" for name in names} <= set(metrics)
    for kind in ("vs_libcachesim", "vs_libcachesim_bulk"):
        assert {f"{kind}_{name}" for name in names[:-1]} <= set(metrics)
    assert {"vs_cachetools_lru", "bytes_per_block"} <= set(metrics)
    assert min(metric.min for metric in metrics.values()) > 0.0
    _ordered(metrics)


def test_adaptive() -> None:
    metrics = adaptive.measure(limit=100)
    assert {"within_2pct", "behind", "miss_adaptive", "miss_s3fifo"} <= set(metrics)
    assert {"within_2pct_generated", "miss_lirs_generated"} <= set(metrics)
    _ordered(metrics)


def test_lifetime() -> None:
    metrics = lifetime.measure((0.1,), limit=1200)
    assert {"calibration_made_up", "covered_made_up", "hits_gain_made_up"} <= set(metrics)
    _ordered(metrics)


def test_migration() -> None:
    metrics = migration.measure((10.0,), limit=60)
    assert list(metrics) == [
        "planned_ms_made_up_10",
        "saved_vs_recompute_made_up_10",
        "saved_vs_always_made_up_10",
    ]


def test_overhead_compares_each_round_with_itself() -> None:
    rounds = [
        overhead.Round(plane=2.0, control=0.5, straight=1.0, again=1.0, identical=True),
        overhead.Round(plane=1.0, control=0.5, straight=1.0, again=2.0, identical=False),
        overhead.Round(plane=1.0, control=0.5, straight=1.0, again=0.5, identical=True),
    ]
    shape = Shape(requests=10, output=(5, 5))
    metrics = overhead.metrics_of(rounds, shape)
    assert metrics["throughput_ratio"].value == 1.0
    assert metrics["aa_p10"].value == 0.5
    assert metrics["outputs_identical"].value == 0.0
    assert metrics["control_cpu_us_per_request"].value == 50_000.0
    assert metrics["control_cpu_us_per_token"].value == 10_000.0


def test_batches_share_prefixes_within_and_nothing_between() -> None:
    shape = Shape(requests=20, groups=2, shared=8)
    one, other = shape.batch(1), shape.batch(2)
    assert one == shape.batch(1)
    assert len({tuple(ids[:8]) for ids, _ in one}) == 2
    assert not {tuple(ids[:8]) for ids, _ in one} & {tuple(ids[:8]) for ids, _ in other}
    assert [(len(ids), n) for ids, n in one] == [(len(ids), n) for ids, n in other]


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
def test_overhead() -> None:
    shape = Shape(requests=4, groups=2, shared=32, own=(1, 8), output=(2, 4))
    metrics = overhead.measure(rounds=1, shape=shape)
    assert list(metrics) == [
        "throughput_ratio",
        "aa_p10",
        "outputs_identical",
        "control_cpu_us_per_request",
        "control_cpu_us_per_token",
    ]
    assert metrics["outputs_identical"].value == 1.0


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
def test_kv_events() -> None:
    shape = Shape(requests=4, groups=2, shared=32, own=(1, 8), output=(2, 4))
    metrics = kv_events.measure(rounds=1, shape=shape)
    assert list(metrics) == [
        "throughput_ratio",
        "aa",
        "aa_p10",
        "control_cpu_us_more",
        "blocks_told",
    ]
    assert metrics["blocks_told"].value > 0.0


def test_gateway_adds_to_the_plane() -> None:
    with gateway.ours("bytes") as port:
        metrics = gateway.added(port, "bytes", 10, "")
    assert list(metrics) == ["added_p50_ms_c1", "stream_added_ttft_ms"]
    assert metrics["added_p50_ms_c1"].n == 10


def test_gateway_ratios_are_of_each_round(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"c32_rps": [10.0, 30.0], "peer_litellm_c32_rps": [5.0, 10.0]}
    metrics = gateway._ratios(found)
    assert list(metrics) == ["vs_best_python_peer"]
    assert (metrics["vs_best_python_peer"].min, metrics["vs_best_python_peer"].max) == (2.0, 3.0)
    assert "vs_rust_peer: absent" in capsys.readouterr().err


def test_prefix() -> None:
    sizes = prefix.Sizes(
        prompts=40, repeats=2, blocks=2000, few_blocks=500, event_frames=64, peers=False
    )
    metrics = prefix.measure(sizes)
    assert list(metrics) == [
        "lookups_per_s_tokens",
        "inserts_per_s_tokens",
        "lookup_p99_us_tokens",
        "lookups_per_s_hashes",
        "holders_1024_vs_8",
        "event_blocks_per_s",
        "bytes_per_block_10m",
        "lookup_10m_vs_100k",
    ]
    _ordered(metrics)


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
def test_prefix_routing() -> None:
    metrics = prefix_routing.measure(1, prefix_routing.Shape(2, 4, 3, 2))
    assert metrics["outputs_identical"].value == 1.0
    assert metrics["cached_aware"].value >= metrics["cached_round_robin"].value
    _ordered(metrics)
