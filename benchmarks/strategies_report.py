"""The table and the plots of `docs/strategies.md`.

    python -m benchmarks.strategies_report [--preset full]

Plots are drawn as SVG by hand: a few bars are no reason for a plotting library.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import strategies_tuning
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
    scenes = strategies.scenes(strategies.SIZES[preset])
    sources = ", ".join(f"{scene.name}: {scene.source}" for scene in scenes)
    rows = _rows(metrics)
    about = machine()
    text = [
        "# Orders and routings under load\n",
        f"Made by `python -m benchmarks.strategies_report --preset {preset}` "
        f"({strategies.SIZES[preset]} requests of each trace; {sources}). Times are virtual: the same "
        f"on every machine (Python {about['python']}).\n",
        strategies.WORKLOAD + "\n",
    ]
    for name, metric in metrics.items():
        if "/" not in name:
            text.append(f"* `{name}`: {metric.value:.4f}\n")
    (DOCS / "img").mkdir(exist_ok=True)
    for (scene, load), policies in rows.items():
        image = f"img/strategies-{scene}-{load}.svg"
        (DOCS / image).write_text(_bars(policies), "utf-8")
        text.append(f"\n## {scene}, {load} of capacity\n\n![objectives met]({image})\n")
        text.append(_table(policies))
    text.append(_tuning(strategies_tuning.rows(scenes)))
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
    over = all("vs_fifo" in values for values in policies.values())
    head = "| policy | SLO met | goodput /s | queue p50 ms | p95 | p99 | fairness |"
    lines = [head + " goodput / fifo's |" * over, "|---|---|---|---|---|---|---|" + "---|" * over]
    for policy, values in policies.items():
        numbers = [values[column] for column in COLUMNS]
        shown = [f"{numbers[0]:.1%}", f"{numbers[1]:.2f}"]
        shown += [f"{number:,.0f}" for number in numbers[2:5]]
        shown.append(f"{numbers[5]:.3f}")
        if over:
            shown.append(f"{values['vs_fifo']:.3f}")
        lines.append(f"| {policy} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _tuning(rows: list[strategies_tuning.Row]) -> str:
    """The defaults against values that were chosen on another part of the same trace."""
    lines = [
        "\n## Are the defaults made for these traces?\n",
        "Each option was tuned on the first third of each trace, at 1.3 of capacity. The value that was "
        "best there and the default then served the other two thirds, on which neither was chosen. "
        "Above 1 the tuned value would have been better: what a default loses by not being made for "
        "the trace. Below 1, tuning on the past would have cost something.\n",
        "| trace | policy | option | default | best on the first third | goodput on the rest with the "
        "default | with that | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = row.with_best / row.with_default if row.with_default else float("nan")
        lines.append(
            f"| {row.scene} | {row.policy} | `{row.option}` | {row.default} | {row.best} | "
            f"{row.with_default:.2f} | {row.with_best:.2f} | {ratio:.2f} |"
        )
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
