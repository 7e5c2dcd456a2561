"""Miss ratio over capacity, one line a policy, as an SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 440, 62, 150, 36, 56
COLORS = (
    *("#1b6ca8", "#d1495b", "#2e933c", "#8d5fd3", "#e08e0b", "#0aa5a5", "#a0522d", "#c2185b"),
    *("#5c6b73", "#7a9e1f"),
)
BOUND = "belady"
"""Drawn dashed: it is no policy."""
LABEL_PX = 48
"""Between two capacities that are both written below the axis."""


def draw(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Capacities on a logarithmic axis, miss ratios between the tenths around them."""
    capacities: list[int] = sorted({row["capacity"] for row in rows})
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    ratios: list[float] = [row["miss_ratio"] for row in rows]
    bottom = math.floor(10.0 * min(ratios))
    top = max(bottom + 1, math.ceil(10.0 * max(ratios)))
    low, high = math.log(capacities[0]), math.log(capacities[-1])
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(capacity: int) -> float:
        share = (math.log(capacity) - low) / (high - low) if high > low else 0.5
        return LEFT + across * share

    def y(ratio: float) -> float:
        return TOP + down * (top - 10.0 * ratio) / (top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}: miss ratio</text>',
        f'<text x="{LEFT + across / 2}" y="{HEIGHT - 10}" text-anchor="middle">blocks</text>',
    ]
    for tenth in range(bottom, top + 1):
        at = f"{y(tenth / 10):.1f}"
        parts.append(f'<line x1="{LEFT}" y1="{at}" x2="{LEFT + across}" y2="{at}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at}" dy="4" text-anchor="end">{tenth / 10}</text>')
    written = -math.inf
    for capacity in capacities:
        at_x = x(capacity)
        if at_x - written < LABEL_PX:
            continue
        written = at_x
        parts.append(
            f'<text x="{at_x:.1f}" y="{TOP + down + 20}" text-anchor="middle">{capacity:,}</text>'
        )
    for number, policy in enumerate(policies):
        color = "#111111" if policy == BOUND else COLORS[number % len(COLORS)]
        dashes = ' stroke-dasharray="5 4"' if policy == BOUND else ""
        points = sorted((r["capacity"], r["miss_ratio"]) for r in rows if r["policy"] == policy)
        places = [(f"{x(capacity):.1f}", f"{y(ratio):.1f}") for capacity, ratio in points]
        path = " ".join(f"{px},{py}" for px, py in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dashes}/>'
        )
        for px, py in places:
            parts.append(f'<circle cx="{px}" cy="{py}" r="3" fill="{color}"/>')
        at_y = TOP + 18 * number
        parts.append(
            f'<rect x="{LEFT + across + 16}" y="{at_y}" width="12" height="12" fill="{color}"/>'
        )
        parts.append(f'<text x="{LEFT + across + 34}" y="{at_y + 11}">{escape(policy)}</text>')
    return "\n".join([*parts, "</svg>\n"])
