"""Fits the cost model's priors to published measurements and says how far off they are.

    python -m benchmarks.fit_costs            # held-out error of every table
    python -m benchmarks.fit_costs --write    # the same, and write sage_llm_ops/cost_model/priors.json

A fifth of the rows of each table, chosen by a fixed seed, is held out: what is printed is the median
relative error there, of weights that were fitted to the other rows. What is written is fitted to
the same four fifths, so that the printed error is that of what is shipped. The data are not ours and
not shipped; SAGE_LLM_OPS_DATA says where they are.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sage_llm_ops.cost_model import operators as ops
from sage_llm_ops.cost_model.architecture import ARCHITECTURES, Device, coefficients, fit
from sage_llm_ops.cost_model.step import SHORT

ROOT = Path(__file__).resolve().parent.parent
PRIORS = ROOT / "sage_llm_ops" / "cost_model" / "priors.json"
H200 = "ai-dynamo/aiconfigurator @095f58a (Apache-2.0), measured on H200 SXM"
SPLITWISE = "Mutinifni/splitwise-sim @8f99e7d (MIT), measured"
DISTSERVE = "LLMServe/DistServe @82831f1 (Apache-2.0), its fitted profile"
Rows = list[dict[str, str]]


def data() -> Path:
    """Where the measurements are."""
    return Path(os.environ.get("SAGE_LLM_OPS_DATA") or ROOT.parent / "shared" / "data")


def operators() -> Iterator[tuple[str, dict[str, Any]]]:
    """Weights, row count and held-out error of each operator of the H200 tables."""
    for dtype, rows in _by(_read("h200_gemm_perf_80pct.csv.zst"), "gemm_dtype"):
        m, n, k, y = _columns(rows, "m", "n", "k", "latency")
        yield _operator(f"gemm/{dtype}", ops.gemm_variables(m, n, k, fp8=dtype != "bfloat16"), y)
    for kind in ("context", "generation"):
        table = _read(f"h200_{kind}_attention_perf_80pct.csv.zst")
        for group, rows in _by(table, "kv_cache_dtype", "window_size", "head_dim"):
            dtype, window, dim = group.split("/")
            names = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "latency")
            *sizes, y = _columns(rows, *names)
            variables = ops.attention_variables(
                *sizes, head_dim=int(dim), window=int(window), fp8_kv=dtype == "fp8"
            )
            yield _operator(f"{kind}/{group}", variables, y)
    for name in ("nccl", "custom_allreduce"):
        table = _read(f"h200_{name}_perf_80pct.csv.zst")
        for group, rows in _by(table, "op_name", "kernel_source"):
            gpus, size, y = _columns(rows, "num_gpus", "message_size", "latency")
            wide = np.array([1.0 if row.get("nccl_dtype") == "int8" else 2.0 for row in rows])
            yield _operator(group, ops.collective_variables(gpus, size * wide), y)


def splitwise() -> Iterator[tuple[str, dict[str, Any]]]:
    """Step coefficients of each model, hardware and tensor parallelism of the Splitwise table."""
    table = list(csv.DictReader((data() / "splitwise_perf_a100_h100pcap.csv").open()))
    for group, rows in _by(table, "model", "hardware", "tensor_parallel"):
        model, hardware, tp = group.split("/")
        prompt, batch, out, first, token = _columns(
            rows, "prompt_size", "batch_size", "token_size", "prompt_time", "token_time"
        )
        tokens = prompt * batch
        one = np.ones_like(tokens)
        x = np.stack([one, tokens, np.minimum(tokens, SHORT), batch * prompt**2], axis=1)
        z = np.stack([one, batch, batch * (prompt + out / 2.0)], axis=1)
        held = _held_out(len(rows))
        w, v = fit(x[~held], first[~held]), fit(z[~held], token[~held])
        errors = [np.abs(x @ w / first - 1)[held], np.abs(z @ v / token - 1)[held]]
        yield (
            f"{hardware}|{model}|{tp}",
            {
                "ms": [*_short(w), *_short(v)],
                "source": SPLITWISE,
                "rows": len(rows),
                "held_out": {
                    "prefill": round(float(np.median(errors[0])), 4),
                    "decode": round(float(np.median(errors[1])), 4),
                },
                "errors": np.concatenate(errors),
            },
        )


def distserve() -> Iterator[tuple[str, dict[str, Any]]]:
    """Coefficients as DistServe publishes them, in our form."""
    profile = json.loads((data() / "profiler-a100-80g.vllm.json").read_text("utf-8"))
    for model, sizes in profile.items():
        for tp, row in sizes.items():
            a, b, c = row["prefill"]
            d, per_token, per_sequence = row["decoding_smallbs"]
            ms = _short(np.array([a, b, 0.0, max(0.0, c), d, per_sequence, per_token]))
            yield f"a100-80gb|{model.split('/')[-1]}|{tp}", {"ms": ms, "source": DISTSERVE}


def composed(weights: dict[str, ops.Array]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Step coefficients of known architectures on H200, from its operators."""
    device = Device(weights)
    for name, arch in ARCHITECTURES.items():
        for tp in (1, 2, 4, 8):
            if arch.heads % tp == 0 and arch.kv_heads % min(tp, arch.kv_heads) == 0:
                source = f"composed of operators: {H200}"
                ms = _short(coefficients(device, arch, tp))
                yield f"h200|{name}|{tp}", {"ms": ms, "source": source}


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 where a table's held-out error is not under a tenth."""
    parser = argparse.ArgumentParser(description="Fit the cost model's priors.")
    parser.add_argument("--write", action="store_true", help=f"write {PRIORS.name}")
    wanted = parser.parse_args(argv)
    found = dict(operators())
    weights = {name: row["weights"] for name, row in found.items()}
    measured = dict(splitwise())
    pooled = np.concatenate([row.pop("errors") for row in measured.values()])
    _print(found, measured, pooled)
    if wanted.write:
        shipped = {
            name: {**row, "weights": _short(row["weights"]), "source": H200}
            for name, row in found.items()
        }
        steps = {**dict(distserve()), **measured, **dict(composed(weights))}
        PRIORS.write_text(_text({"operators": shipped, "steps": steps}), "utf-8")
    worst = max(*(row["held_out"] for row in found.values()), float(np.median(pooled)))
    return int(worst >= 0.10)


def _print(found: dict[str, Any], measured: dict[str, Any], pooled: ops.Array) -> None:
    print("median relative error on the held-out fifth")
    for name, row in found.items():
        print(f"  h200  {name:32} {row['rows']:6} rows  {row['held_out']:7.2%}")
    for name, row in measured.items():
        each = "  ".join(f"{part} {value:6.2%}" for part, value in row["held_out"].items())
        print(f"  splitwise  {name:34} {row['rows']:4} rows  {each}")
    print(f"  splitwise, all held-out rows, prefill and decode  {np.median(pooled):7.2%}")


def _operator(name: str, variables: list[ops.Array], y: ops.Array) -> tuple[str, dict[str, Any]]:
    held = _held_out(len(y))
    rows = ops.powers(variables)
    weights, *_ = np.linalg.lstsq(rows[~held], np.log(y[~held]), rcond=None)
    error = np.abs(np.exp(rows[held] @ weights) / y[held] - 1.0)
    return name, {
        "weights": weights,
        "rows": len(y),
        "held_out": round(float(np.median(error)), 4),
    }


def _held_out(n: int) -> Any:
    return np.random.default_rng(5).random(n) < 0.2


def _read(name: str) -> Rows:
    import zstandard

    with (data() / name).open("rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw)
        return list(csv.DictReader(io.TextIOWrapper(stream, "utf-8")))


def _by(rows: Rows, *keys: str) -> Iterator[tuple[str, Rows]]:
    groups: dict[str, Rows] = {}
    for row in rows:
        groups.setdefault("/".join(row[key] for key in keys), []).append(row)
    yield from sorted(groups.items())


def _columns(rows: Rows, *names: str) -> list[ops.Array]:
    return [np.array([float(row[name]) for row in rows]) for name in names]


def _short(numbers: ops.Array) -> list[float]:
    return [float(f"{number:.10g}") for number in numbers]


def _text(table: dict[str, Any]) -> str:
    """One line a row: a diff shows which prior changed."""
    rooms = []
    for room, rows in table.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
        rooms.append(f" {json.dumps(room)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(rooms) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
