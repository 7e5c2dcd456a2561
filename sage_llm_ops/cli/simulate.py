"""`sage-llm-ops simulate PIPELINE`: a workload through the graph, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage_llm_ops.cli.output import Json, json_text

if TYPE_CHECKING:
    from sage_llm_ops.pipeline.simulate import SimReport
    from sage_llm_ops.pipeline.traces import TraceRequest
    from sage_llm_ops.types.events import Outcome
    from sage_llm_ops.types.pipelines import PipelineSpec
    from sage_llm_ops.types.requests import Request

REQUESTS, SEED, RATE = 1000, 0, 3.0


def simulate(
    pipeline: Annotated[Path, typer.Argument(help="A pipeline's .toml.")],
    trace: Annotated[
        Path | None, typer.Option(help="A Mooncake or Azure trace; without it, a made-up one.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only so many requests of the trace.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help=f"Made-up requests ({REQUESTS}).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"Of the made-up trace ({SEED}).")] = None,
    rate: Annotated[
        float | None, typer.Option(help=f"Made-up requests per second ({RATE:g}).")
    ] = None,
    instances: Annotated[
        int | None, typer.Option(min=1, help="So many equal engines instead of the file's.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE of the simulated engines; repeatable.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Write the decisions there (for `why`).")
    ] = None,
    json: Json = False,
) -> None:
    """Simulate the pipeline under a workload: times are virtual, decisions are the real ones."""
    from sage_llm_ops.config import load_pipeline

    spec = _with_options(load_pipeline(pipeline), option or [])
    if trace is None:
        _refuse_together(limit=limit, reason="without --trace; use --requests")
        workload = _synthetic(requests or REQUESTS, seed or SEED, RATE if rate is None else rate)
    else:
        _refuse_together(requests=requests, seed=seed, rate=rate, reason="with --trace")
        workload = _read(trace, limit)
    result = run(spec, workload, instances=instances, ledger=ledger)
    if json:
        typer.echo(json_text({"pipeline": str(pipeline), "trace": trace and str(trace), **result}))
    else:
        _print(result, str(trace) if trace else "a made-up trace")


def run(
    spec: PipelineSpec,
    workload: Iterable[TraceRequest],
    *,
    instances: int | None = None,
    ledger: Path | None = None,
) -> dict[str, Any]:
    """Everything a simulation shows, as plain values.

    The file's own `ledger` is left alone: it is the record of what really ran.
    """
    from sage_llm_ops.pipeline.simulate import simulate as drive
    from sage_llm_ops.telemetry import Ledger

    model = "sim"
    if instances is None:
        model = next((i.model_name for i in spec.instances if i.model_name), model)
    failures = _Failures()
    book = Ledger(ledger, keep=1)
    try:
        report = drive(
            spec,
            _arrivals(workload, model),
            instances=instances,
            model=model,
            ledger=book,
            on_end=failures,
        )
    finally:
        book.close()
    return _result(report, failures.first)


class _Failures:
    """The first sentence of each code with which requests ended."""

    def __init__(self) -> None:
        self.first: dict[str, str] = {}

    def __call__(self, outcome: Outcome) -> None:
        if outcome.code:
            self.first.setdefault(outcome.code, outcome.message)


def _arrivals(workload: Iterable[TraceRequest], model: str) -> Iterator[tuple[float, Request]]:
    from sage_llm_ops.pipeline.traces import to_request

    return ((trace.at, to_request(trace, n, model)) for n, trace in enumerate(workload))


def _read(trace: Path, limit: int | None) -> Iterator[TraceRequest]:
    from sage_llm_ops.pipeline.traces import read_trace

    return read_trace(trace, limit)


def _synthetic(requests: int, seed: int, rate: float) -> Iterator[TraceRequest]:
    from sage_llm_ops.pipeline.synthetic import generate_trace

    return generate_trace(requests, seed, rate)


def _with_options(spec: PipelineSpec, given: list[str]) -> PipelineSpec:
    """The file's `[simulate]` table with what the command line says on top."""
    import dataclasses

    from sage_llm_ops.config.overrides import value_of
    from sage_llm_ops.types.errors import ConfigError

    options = dict(spec.simulate)
    for pair in given:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--option {pair!r} must be KEY=VALUE, as in speed=2.0")
        options[key] = value_of(text)
    return dataclasses.replace(spec, simulate=options)


def _refuse_together(reason: str, **given: object) -> None:
    """An option that would change nothing is refused, not ignored."""
    from sage_llm_ops.types.errors import ConfigError

    for name, value in given.items():
        if value is not None:
            raise ConfigError(f"--{name} {value} has no meaning {reason}")


def _result(report: SimReport, reasons: dict[str, str]) -> dict[str, Any]:
    total = report.table["total"]
    span = report.duration_s or None
    prompt = total["prompt_tokens"]
    return {
        "requests": report.requests,
        "ends": {code or "completed": n for code, n in sorted(report.ends.items())},
        "reasons": reasons,
        "virtual_s": report.duration_s,
        "requests_per_s": report.requests / span if span else None,
        "tokens_per_s": total["output_tokens"] / span if span else None,
        **{
            name: {p: total[f"{name}_{p}_ms"] for p in ("p50", "p95", "p99")}
            for name in ("ttft", "tpot", "queue")
        },
        "cached_share": total["cached_tokens"] / prompt if prompt else None,
        "decisions": report.decisions,
        "digest": report.digest,
        "real_us_per_request": report.real_us_per_request,
        "workers": report.table,
    }


def _print(result: dict[str, Any], workload: str) -> None:
    from sage_llm_ops.cli.numbers import count, milliseconds, print_workers

    ends = ", ".join(f"{n} {code}" for code, n in result["ends"].items())
    typer.echo(f"{count(result['requests'], 'request')} of {workload}: {ends}")
    for code, sentence in result["reasons"].items():
        typer.echo(f"  {code}: {sentence}")
    if result["requests_per_s"] is not None:
        typer.echo(
            f"{result['virtual_s']:.1f} virtual seconds: {result['requests_per_s']:.2f} requests/s, "
            f"{result['tokens_per_s']:.0f} tokens/s"
        )
    for name in ("ttft", "tpot", "queue"):
        spread = "  ".join(f"{p} {milliseconds(v):>6}" for p, v in result[name].items())
        typer.echo(f"  {name.upper() if name != 'queue' else name:6}{spread}  ms")
    if result["cached_share"] is not None:
        typer.echo(f"  cached {100.0 * result['cached_share']:.1f} % of the prompt tokens")
    print_workers(result["workers"], "workers")
    typer.echo(f"digest of {result['decisions']} decisions: {result['digest']}")
    typer.echo(f"simulated at {result['real_us_per_request']:.0f} µs a request")
