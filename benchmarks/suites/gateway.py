"""What the gateway adds to the plane, and how it compares with other people's routers."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.gateway_under_test import MODEL, plane
from benchmarks.http_load import Caller, Rate, body, wrk
from benchmarks.metric import Metric
from benchmarks.routers import (
    ROUTERS,
    UNKNOWN_PACKAGE,
    install,
    running,
    started,
    wait_for_answer,
)
from sage_llm_ops.testing.servers import free_port
from sage_llm_ops.types.requests import RequestMetadata

WORKLOAD = """\
Chats with a prompt of 8 kB and one token to answer, on this machine; load generator (wrk, one
thread), gateway and everything behind it share its cores. Ours: two simulated engines in the
gateway's process that answer at once, the ledger to a file, the whole graph for every request; the
prompt is tokenised as the engines are configured: bytes (the simulated engine's own), or, in the
metrics named *_hf, the 2,048-token BPE of the tiny model with its chat template.
c32_rps: wrk with 32 connections. Added at c=1, in milliseconds: one connection, one call at a time
(a Python socket); its median through the gateway less the median of the same call straight to the
plane in the same kind of process (ControlPlane.submit, tokenisation included, to the result, or to
the first token for stream_added_ttft_ms), alternating. n counts calls or runs.
Peers stand before two backends that answer at once with a prepared text (a process each; without
tokenisation, routing by content or a ledger) and are measured by the same wrk within the same
minutes: peer_*_c32_rps. vs_best_python_peer, vs_rust_peer: c32_rps of each round / that of the
fastest peer written in Python, or in Rust, in that round."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rounds of everything, seconds of each wrk, single calls, and whether peers are asked."""

    rounds: int
    seconds: int
    calls: int


SIZES = {"ci": Sizes(2, 2, 300), "full": Sizes(5, 5, 2000)}


def run(preset: str) -> dict[str, Metric]:
    return measure(SIZES[preset])


def measure(sizes: Sizes) -> dict[str, Metric]:
    """All metrics of the suite; peers that are absent are named on stderr."""
    found: dict[str, list[float]] = {}
    with ours("bytes") as bytes_port, ours("hf") as hf_port, backends() as behind:
        rates = {"": bytes_port, "_hf": hf_port}
        with contextlib.ExitStack() as stack:
            peers = _peers(stack, *behind)
            for port in (*rates.values(), *peers.values()):
                wrk(port, 8, 1)
            for _ in range(sizes.rounds):
                for suffix, port in rates.items():
                    _keep(found, f"c32_rps{suffix}", wrk(port, 32, sizes.seconds).rps)
                for name, port in peers.items():
                    rate = _rate(name, port, sizes.seconds)
                    if rate is not None:
                        _keep(found, f"peer_{name.replace('-', '_')}_c32_rps", rate.rps)
        metrics = {name: Metric.of(rates, "requests/s") for name, rates in found.items()}
        metrics |= _ratios(found)
        metrics |= added(bytes_port, "bytes", sizes.calls, "")
        metrics |= added(hf_port, "hf", sizes.calls, "_hf")
    return metrics


def _keep(found: dict[str, list[float]], name: str, value: float) -> None:
    found.setdefault(name, []).append(value)


def _rate(name: str, port: int, seconds: int) -> Rate | None:
    try:
        return wrk(port, 32, seconds)
    except RuntimeError as error:
        print(f"{name}: no figure: {error}", file=sys.stderr)
        return None


def _ratios(found: dict[str, list[float]]) -> dict[str, Metric]:
    """Round by round against the fastest of its kind."""
    out = {}
    for metric, python in (("vs_best_python_peer", True), ("vs_rust_peer", False)):
        names = [f"peer_{r.name.replace('-', '_')}_c32_rps" for r in ROUTERS if r.python is python]
        rounds = len(found["c32_rps"])
        rivals = [found[name] for name in names if len(found.get(name, ())) == rounds]
        if not rivals:
            print(f"{metric}: absent, because no such peer ran", file=sys.stderr)
            continue
        best = [max(rates) for rates in zip(*rivals, strict=True)]
        ratios = [our / peer for our, peer in zip(found["c32_rps"], best, strict=True)]
        out[metric] = Metric.of(ratios, "ratio")
    return out


def added(port: int, tokenizer: str, calls: int, suffix: str) -> dict[str, Metric]:
    """Through the gateway less straight to the plane, alternating."""
    with tempfile.TemporaryDirectory(prefix="sage-llm-ops-bench-") as work:
        straight = plane(tokenizer, work)
        straight.start()
        caller = Caller(port)
        try:
            messages = body()["messages"]
            tell = _telling(straight, messages)
            whole: list[list[float]] = [[], []]
            first: list[list[float]] = [[], []]
            for turn in range(calls + 20):
                took = (caller.whole_ms(), tell(False), caller.first_token_ms(), tell(True))
                if turn >= 20:
                    for kept, value in zip((*whole, *first), took, strict=True):
                        kept.append(value)
        finally:
            caller.close()
            straight.stop(2.0)
    return {
        f"{name}{suffix}": _difference(*pair)
        for name, pair in (("added_p50_ms_c1", whole), ("stream_added_ttft_ms", first))
    }


def _telling(straight: object, messages: object) -> Callable[[bool], float]:
    import time

    from sage_llm_ops.core.control_plane import ControlPlane

    assert isinstance(straight, ControlPlane)

    def tell(stream: bool) -> float:
        began = time.perf_counter()
        handle = straight.submit(
            RequestMetadata(
                messages=messages,  # type: ignore[arg-type]
                model_name=MODEL,
                sampling_params={"max_tokens": 1},
            )
        )
        if stream:
            for _ in handle.iter(30.0):
                took = time.perf_counter() - began
        else:
            handle.result(30.0)
            took = time.perf_counter() - began
        return took * 1e3

    return tell


def _difference(through: list[float], straight: list[float]) -> Metric:
    """Of medians; the spread is that over tenths of the calls."""
    tenth = max(1, len(through) // 10)
    parts = [
        median(through[at : at + tenth]) - median(straight[at : at + tenth])
        for at in range(0, len(through) - tenth + 1, tenth)
    ]
    value = median(through) - median(straight)
    return Metric(value, "ms", len(through), min(parts), max(parts))


# -- processes --------------------------------------------------------------------------------


@contextmanager
def ours(tokenizer: str) -> Iterator[int]:
    """Our gateway; its port."""
    port = free_port()
    with _python("benchmarks.gateway_under_test", str(port), tokenizer):
        wait_for_answer(port)
        yield port


@contextmanager
def backends() -> Iterator[tuple[int, int]]:
    """Two that answer at once; their ports."""
    one, two = free_port(), free_port()
    with (
        _python("benchmarks.instant_backend", str(one)),
        _python("benchmarks.instant_backend", str(two)),
    ):
        wait_for_answer(one)
        wait_for_answer(two)
        yield one, two


@contextmanager
def _python(module: str, *arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", module, *arguments]
    with (
        tempfile.TemporaryDirectory() as directory,
        started(command, Path(directory) / "log"),
    ):
        yield


def _peers(stack: contextlib.ExitStack, one: int, two: int) -> dict[str, int]:
    """Those that came up, with their ports."""
    print(f"absent: {UNKNOWN_PACKAGE}", file=sys.stderr)
    ports = {}
    for router in ROUTERS:
        absent = install(router)
        port = free_port()
        if not absent:
            try:
                stack.enter_context(running(router, port, one, two))
            except (OSError, TimeoutError) as error:
                absent = f"did not come up: {error}"
        if absent:
            print(f"absent: {router.name}: {absent}", file=sys.stderr)
        else:
            ports[router.name] = port
    return ports
