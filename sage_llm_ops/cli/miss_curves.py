"""Miss ratio over capacity, one line a policy, as an SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 56, 150, 36, 44
COLORS = ("#1b6ca8", "#d1495b", "#2e933c", "#8d5fd3", "#e08e0b", "#111111", "#6c757d", "#0aa5a5")


def draw(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Capacities on a logarithmic axis, miss ratios from 0 to 1."""
    capacities = sorted({row["capacity"] for row in rows})
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    low, high = math.log(capacities[0]), math.log(capacities[-1])
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(capacity: int) -> float:
        share = (math.log(capacity) - low) / (high - low) if high > low else 0.5
        return LEFT + across * share

    def y(ratio: float) -> float:
        return TOP + down * (1.0 - ratio)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}: miss ratio by capacity</text>',
    ]
    for tenth in range(0, 11, 2):
        at = y(tenth / 10)
        parts.append(f'<line x1="{LEFT}" y1="{at}" x2="{LEFT + across}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{tenth / 10}</text>')
    for capacity in capacities:
        parts.append(
            f'<text x="{x(capacity):.1f}" y="{TOP + down + 20}" text-anchor="middle">{capacity}</text>'
        )
    for number, policy in enumerate(policies):
        color = COLORS[number % len(COLORS)]
        points = sorted((r["capacity"], r["miss_ratio"]) for r in rows if r["policy"] == policy)
        path = " ".join(f"{x(capacity):.1f},{y(ratio):.1f}" for capacity, ratio in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for point in path.split():
            cx, cy = point.split(",")
            parts.append(f'<circle cx="{cx}" cy="{cy}" r="3" fill="{color}"/>')
        at = TOP + 18 * number
        parts.append(
            f'<rect x="{LEFT + across + 16}" y="{at}" width="12" height="12" fill="{color}"/>'
        )
        parts.append(f'<text x="{LEFT + across + 34}" y="{at + 11}">{escape(policy)}</text>')
    return "\n".join([*parts, "</svg>\n"])
