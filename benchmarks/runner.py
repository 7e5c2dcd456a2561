"""Runs one benchmark suite and writes one document.

    python benchmarks/runner.py --suite pipeline --preset ci --out bench-out/pipeline-ci.json

A suite is a module of `benchmarks/suites/` with `WORKLOAD` (what is measured, in sentences) and
`run(preset) -> dict[str, Metric]`. `ci` ends within 50 s, or 150 s where engines are started.
Metric names are an interface: gates and reports look numbers up by them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # As a script, Python looks for modules beside the file; suites are imported from the root.
    sys.path[0] = str(ROOT)

from rich.console import Console  # noqa: E402

from benchmarks.machine import machine, machine_score  # noqa: E402
from benchmarks.metric import table  # noqa: E402

PRESETS = ("ci", "full")
SUITES = ROOT / "benchmarks" / "suites"


def suites() -> list[str]:
    """Names that `--suite` takes."""
    return sorted(p.stem for p in SUITES.glob("*.py") if not p.stem.startswith("_"))


def load(name: str) -> Any:
    """The module of a suite."""
    return importlib.import_module(f"benchmarks.suites.{name}")


def document(name: str, suite: Any, preset: str) -> dict[str, Any]:
    """Run a suite; everything somebody needs to judge its numbers."""
    about, score = machine(), machine_score()
    metrics = suite.run(preset)
    return {
        "suite": name,
        "preset": preset,
        "machine": about,
        "machine_score": score,
        "workload": suite.WORKLOAD,
        "metrics": {key: asdict(metric) for key, metric in metrics.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Run one benchmark suite.")
    parser.add_argument("--suite", required=True)
    parser.add_argument("--preset", choices=PRESETS, default="ci")
    parser.add_argument("--out", type=Path, help="where the document goes, as JSON")
    parser.add_argument("--json", action="store_true", help="print the document, not the table")
    given = parser.parse_args(argv)
    if given.suite not in suites():
        print(f"unknown suite {given.suite!r}; suites: {', '.join(suites())}", file=sys.stderr)
        return 2
    made = document(given.suite, load(given.suite), given.preset)
    text = json.dumps(made, indent=2) + "\n"
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text, encoding="utf-8")
    if given.json:
        print(text, end="")
    else:
        show(made)
    return 0


def show(made: dict[str, Any]) -> None:
    """The document for people."""
    from benchmarks.metric import Metric

    console = Console()
    about = made["machine"]
    load = ", ".join(f"{x:.2f}" for x in about["loadavg"])
    console.print(made["workload"], style="dim", markup=False, soft_wrap=True)
    console.print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, load {load}")
    metrics = {name: Metric(**fields) for name, fields in made["metrics"].items()}
    console.print(table(f"{made['suite']} ({made['preset']})", metrics))


if __name__ == "__main__":
    sys.exit(main())
