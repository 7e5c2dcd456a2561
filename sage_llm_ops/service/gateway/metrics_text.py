"""Numbers in Prometheus' text format. The table is in docs/metrics.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from sage_llm_ops.core.describe import describe
from sage_llm_ops.telemetry.histogram import Histogram
from sage_llm_ops.telemetry.metrics import Tally

if TYPE_CHECKING:
    from sage_llm_ops.service.gateway.app import Gateway

KIND = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "sage_llm_ops_"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Seconds; upper bounds of the buckets of every histogram."""

Labels = Mapping[str, str]
Sample = tuple[Labels, float]

METRICS: dict[str, tuple[str, str]] = {
    "http_requests_total": ("counter", "Answers, by route and status."),
    "http_request_seconds": ("histogram", "Head of a request to the end of its answer, by route."),
    "http_connections": ("gauge", "Open connections."),
    "http_in_flight": ("gauge", "Generations and embeddings being served."),
    "requests_accepted_total": ("counter", "Requests that the graph let in."),
    "requests_refused_total": ("counter", "Requests that the graph refused by name."),
    "requests_waiting": ("gauge", "Requests that wait for a place."),
    "requests_running": ("gauge", "Requests on engines."),
    "requests_total": ("counter", "Ended requests, by engine and outcome."),
    "retries_total": ("counter", "Further attempts, by engine of the last one."),
    "prompt_tokens_total": ("counter", "Prompt tokens of completed requests, by engine."),
    "output_tokens_total": ("counter", "Generated tokens of completed requests, by engine."),
    "cached_tokens_total": ("counter", "Prompt tokens that a prefix cache gave, by engine."),
    "ttft_seconds": ("histogram", "Arrival to first token, by engine."),
    "tpot_seconds": ("histogram", "Mean time between tokens of a request, by engine."),
    "queue_seconds": ("histogram", "Arrival to placement, by engine."),
    "latency_seconds": ("histogram", "Arrival to the end, by engine."),
    "slo_counted_total": ("counter", "Ended requests that had an objective."),
    "slo_violations_total": ("counter", "Those of them that missed it."),
    "engine_up": ("gauge", "1 if the engine takes requests, by engine and model."),
    "engine_slots": ("gauge", "Requests that an engine is given at a time."),
    "engine_running": ("gauge", "Requests that an engine has now."),
    "engine_kv_usage": ("gauge", "Share of its KV cache in use; absent until it said so."),
    "prefix_lookups_total": ("counter", "Requests for which prefix holders were looked up."),
    "prefix_hits_total": ("counter", "Those of them that found an engine with some of the prompt."),
    "prefix_matched_tokens_total": (
        "counter",
        "Prompt tokens that the best engine had, at lookup.",
    ),
    "prefix_lookup_seconds": ("gauge", "Time that 50 and 99 percent of the lookups stayed below."),
    "prefix_conflicts_total": ("counter", "Searches that met another block under the same key."),
    "prefix_tokens_total": (
        "counter",
        "Prompt tokens that were cached (achieved), that the best engine had (reachable), that a "
        "cache without bounds would have had (ideal), that were computed although another "
        "engine had them (avoidable), that the chosen engine was said to have (claimed), and "
        "that it then did not have (overclaimed).",
    ),
    "prefix_index_bytes": ("gauge", "Memory of the prefix index."),
    "prefix_index_blocks": ("gauge", "Blocks in it."),
    "prefix_evicted_blocks_total": ("counter", "Blocks that it forgot because it was full."),
    "prefix_drops_total": ("counter", "Reports of engines' caches that were left out, by reason."),
    "prefix_silence_seconds": ("gauge", "Since an engine last reported on its cache, by engine."),
    "cost_steps_total": ("counter", "Steps that the cost model learnt from, by class of workers."),
    "cost_error": ("gauge", "Median relative error of its latest predictions of them."),
    "decisions_total": ("counter", "Entries of the ledger."),
}


def metrics_text(gateway: Gateway) -> str:
    """Every metric that has a value; a label that never occurred has no line."""
    return "".join(_lines(gateway))


def _lines(gateway: Gateway) -> Iterator[str]:
    histograms, samples = _spreads(gateway), _values(gateway)
    for name, (kind, text) in METRICS.items():
        yield f"# HELP {PREFIX}{name} {text}\n# TYPE {PREFIX}{name} {kind}\n"
        if kind == "histogram":
            for labels, histogram in histograms[name]:
                yield from _histogram(name, labels, histogram)
        else:
            for labels, value in samples[name]:
                yield f"{PREFIX}{name}{_labels(labels)} {value:.17g}\n"


def _values(gateway: Gateway) -> dict[str, Iterable[Sample]]:
    plane = gateway.plane.pipeline.plane
    measured = plane.metrics
    rows = describe(gateway.plane)
    costs = plane.costs.report()
    running = len(plane.running)
    tallies = _tallies(gateway)

    def one(value: float) -> list[Sample]:
        return [({}, value)]

    def per_worker(field: str) -> list[Sample]:
        return [({"engine": name}, getattr(tally, field)) for name, tally in tallies]

    def per_row(field: str) -> list[Sample]:
        return [
            ({"engine": row["worker"]}, row[field])
            for row in rows
            if row.get("worker") is not None and row.get(field) is not None
        ]

    return {
        "http_requests_total": [
            ({"route": route, "status": str(status)}, count)
            for (route, status), count in sorted(gateway.answers.items())
        ],
        "http_connections": one(len(gateway.connections)),
        "http_in_flight": one(gateway.in_flight),
        "requests_accepted_total": one(measured.accepted),
        "requests_refused_total": one(measured.refused),
        "requests_waiting": one(max(0, len(plane.jobs) - running)),
        "requests_running": one(running),
        "requests_total": [
            ({"engine": name, "outcome": outcome}, getattr(tally, outcome))
            for name, tally in tallies
            for outcome in ("completed", "failed", "cancelled")
        ],
        "retries_total": per_worker("retries"),
        "prompt_tokens_total": per_worker("prompt_tokens"),
        "output_tokens_total": per_worker("output_tokens"),
        "cached_tokens_total": per_worker("cached_tokens"),
        "slo_counted_total": one(measured.slo_counted),
        "slo_violations_total": one(measured.slo_violations),
        "engine_up": [
            (
                {"engine": identity, "model": instance.model_name},
                float(instance.health_status == "healthy"),
            )
            for identity, instance in list(gateway.plane.instances.items())
        ],
        "engine_slots": per_row("slots"),
        "engine_running": per_row("running"),
        "engine_kv_usage": per_row("kv_usage"),
        **_prefixes(gateway),
        "cost_steps_total": [({"class": row["class"]}, row["steps"]) for row in costs],
        "cost_error": [
            ({"class": row["class"]}, row["median_error"])
            for row in costs
            if row["median_error"] is not None
        ],
        "decisions_total": one(gateway.plane.pipeline.ledger.decisions),
    }


def _prefixes(gateway: Gateway) -> dict[str, Iterable[Sample]]:
    row = gateway.plane.pipeline.prefixes()
    if not row:
        return {name: [] for name in METRICS if name.startswith("prefix_")}
    kinds = ("achieved", "reachable", "ideal", "avoidable", "claimed", "overclaimed")
    times = (("0.5", row["lookup_p50_us"]), ("0.99", row["lookup_p99_us"]))
    return {
        "prefix_lookups_total": [({}, row["lookups"])],
        "prefix_hits_total": [({}, row["hits"])],
        "prefix_matched_tokens_total": [({}, row["matched_tokens"])],
        "prefix_lookup_seconds": [({"quantile": q}, us / 1e6) for q, us in times if us is not None],
        "prefix_conflicts_total": [({}, row["conflicts"])],
        "prefix_tokens_total": [({"kind": kind}, row["total"][kind]) for kind in kinds],
        "prefix_index_bytes": [({}, row["bytes"])],
        "prefix_index_blocks": [({}, row["blocks"])],
        "prefix_evicted_blocks_total": [({}, row["evicted_blocks"])],
        "prefix_drops_total": [({"reason": why}, n) for why, n in sorted(row["drops"].items())],
        "prefix_silence_seconds": [({"engine": w}, s) for w, s in sorted(row["silence_s"].items())],
    }


def _spreads(gateway: Gateway) -> dict[str, list[tuple[Labels, Histogram]]]:
    tallies = _tallies(gateway)
    found: dict[str, list[tuple[Labels, Histogram]]] = {
        f"{field}_seconds": [({"engine": name}, getattr(tally, field)) for name, tally in tallies]
        for field in ("ttft", "tpot", "queue", "latency")
    }
    found["http_request_seconds"] = [
        ({"route": route}, histogram) for route, histogram in sorted(gateway.seconds.items())
    ]
    return found


def _tallies(gateway: Gateway) -> list[tuple[str, Tally]]:
    """Requests that ended before any engine had them have the engine `none`."""
    workers = gateway.plane.pipeline.plane.metrics.workers
    return [(name or "none", tally) for name, tally in sorted(workers.copy().items())]


def _histogram(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    counts, count, total = histogram.below(BOUNDS)
    for bound, below in zip(BOUNDS, counts, strict=True):
        yield f"{PREFIX}{name}_bucket{_labels({**labels, 'le': f'{bound:g}'})} {below}\n"
    yield f"{PREFIX}{name}_bucket{_labels({**labels, 'le': '+Inf'})} {count}\n"
    yield f"{PREFIX}{name}_sum{_labels(labels)} {total:.17g}\n"
    yield f"{PREFIX}{name}_count{_labels(labels)} {count}\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
