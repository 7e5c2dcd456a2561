"""The table and the plots of `docs/strategies.md`.

    python -m benchmarks.strategies_report [--preset full]

Plots are drawn as SVG by hand: a few bars are no reason for a plotting library.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.metric import Metric
from benchmarks.suites import strategies

DOCS = Path(__file__).resolve().parent.parent / "docs"
COLUMNS = ("slo", "goodput", "queue_p50", "queue_p95", "queue_p99", "fairness")
Rows = dict[tuple[str, str], dict[str, dict[str, float]]]


def main(argv: list[str] | None = None) -> int:
    """Run the suite and write the document."""
    parser = argparse.ArgumentParser(description="Write docs/strategies.md.")
    parser.add_argument("--preset", choices=sorted(strategies.SIZES), default="ci")
    preset = parser.parse_args(argv).preset
    metrics = strategies.run(preset)
    rows = _rows(metrics)
    about = machine()
    text = [
        "# Orders and routings under load\n",
        f"Made by `python -m benchmarks.strategies_report --preset {preset}` "
        f"({strategies.SIZES[preset]} requests of each trace). Times are virtual: the same on every "
        f"machine (Python {about['python']}).\n",
        strategies.WORKLOAD + "\n",
    ]
    for name, metric in metrics.items():
        if "/" not in name:
            text.append(f"* `{name}`: {metric.value:.3f}\n")
    (DOCS / "img").mkdir(exist_ok=True)
    for (scene, load), policies in rows.items():
        image = f"img/strategies-{scene}-{load}.svg"
        (DOCS / image).write_text(_bars(policies), "utf-8")
        text.append(f"\n## {scene}, {load} of capacity\n\n![objectives met]({image})\n")
        text.append(_table(policies))
    (DOCS / "strategies.md").write_text("\n".join(text), "utf-8")
    return 0


def _rows(metrics: Mapping[str, Metric]) -> Rows:
    rows: Rows = {}
    for name, metric in metrics.items():
        if name.count("/") == 3:
            scene, load, policy, column = name.split("/")
            rows.setdefault((scene, load), {}).setdefault(policy, {})[column] = metric.value
    return rows


def _table(policies: Mapping[str, dict[str, float]]) -> str:
    head = "| policy | SLO met | goodput /s | queue p50 ms | p95 | p99 | fairness |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for policy, values in policies.items():
        numbers = [values[column] for column in COLUMNS]
        shown = [f"{numbers[0]:.1%}", f"{numbers[1]:.2f}"]
        shown += [f"{number:,.0f}" for number in numbers[2:5]]
        lines.append(f"| {policy} | {' | '.join(shown)} | {numbers[5]:.3f} |")
    return "\n".join(lines) + "\n"


def _bars(policies: Mapping[str, dict[str, Any]]) -> str:
    """One bar a policy: the share of objectives met."""
    height, left, width = 18, 170, 400
    parts = []
    for place, (policy, values) in enumerate(policies.items()):
        y, share = place * height, values["slo"]
        parts.append(
            f'<text x="{left - 6}" y="{y + 13}" text-anchor="end">{policy}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{share * width:.1f}" height="12" fill="#4477aa"/>'
            f'<text x="{left + share * width + 4:.1f}" y="{y + 13}">{share:.1%}</text>'
        )
    size = f'width="{left + width + 60}" height="{len(policies) * height + 4}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" '
        f'font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    raise SystemExit(main())
