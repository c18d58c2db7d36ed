"""Speed against faithfulness and size: a static SVG, one panel a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, MARGIN, TOP = 260, 180, 52, 60
COLOURS = ("#0b6e4f", "#7fb285", "#c8553d", "#e09f3e", "#9e2a2b", "#540b0e", "#3d5a98")
PANELS_A_ROW = 5
SLOWEST, FASTEST = 0.4, 3.0
LEAST = 0.8
"""Where the vertical axis begins: what is less faithful lies on it."""


def plot(rows: Sequence[Any], tools: Sequence[str]) -> str:
    """`rows` have task, tool, fidelity (0 to 1), speedup, smaller, and an error where there is no figure. The area of a point is the size of the file relative to the float model's; on the line
    is what no other tool beats in both."""
    colours = dict(zip(tools, COLOURS, strict=True))
    tasks = list(dict.fromkeys(r.task for r in rows))
    lines = -(-len(tasks) // PANELS_A_ROW)
    width, height = min(len(tasks), PANELS_A_ROW) * (WIDTH + MARGIN) + MARGIN, TOP + lines * (HEIGHT + MARGIN + 20)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, tool in enumerate(tools):
        x = MARGIN + 150 * index
        parts += [f'<circle cx="{x}" cy="16" r="4" fill="{colours[tool]}"/>', f'<text x="{x + 10}" y="20">{escape(tool)}</text>']
    for index, task in enumerate(tasks):
        x, y = MARGIN + index % PANELS_A_ROW * (WIDTH + MARGIN), TOP + index // PANELS_A_ROW * (HEIGHT + MARGIN + 20)
        parts += [f'<g transform="translate({x} {y})">', *panel(task, [r for r in rows if r.task == task and not r.error], colours), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def panel(task: str, rows: Sequence[Any], colours: Mapping[str, str]) -> list[str]:
    """Axes, the float model as a cross, a point for each tool, and the line through the best."""
    parts = [f'<text x="0" y="-10" font-weight="bold">{escape(task)}</text>', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>']
    for step in range(5):
        value = LEAST + (1 - LEAST) * step / 4
        parts += [f'<path d="M0 {vertical(value)}H{WIDTH}" stroke="#ddd"/>', f'<text x="-6" y="{vertical(value) + 4}" text-anchor="end">{value:.2f}</text>']
    for value in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        parts.append(f'<text x="{horizontal(value)}" y="{HEIGHT + 15}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 30}" text-anchor="middle">speed-up, one thread</text>')
    x, y = horizontal(1.0), vertical(1.0)
    parts.append(f'<path d="M{x - 5} {y}H{x + 5}M{x} {y - 5}V{y + 5}" stroke="#444"/>')
    best = [r for r in rows if not any(o is not r and o.fidelity >= r.fidelity and o.speedup >= r.speedup for o in rows)]
    points = sorted((horizontal(r.speedup), vertical(r.fidelity)) for r in best)
    parts.append(f'<polyline points="{" ".join(f"{a},{b}" for a, b in points)}" fill="none" stroke="#888" stroke-dasharray="3 3"/>')
    for row in rows:
        radius = round(9 * row.smaller**-0.5, 1)
        parts.append(f'<circle cx="{horizontal(row.speedup)}" cy="{vertical(row.fidelity)}" r="{radius}" fill="{colours[row.tool]}" fill-opacity="0.7"/>')
    return parts


def horizontal(speedup: float) -> float:
    return round((min(max(speedup, SLOWEST), FASTEST) - SLOWEST) / (FASTEST - SLOWEST) * WIDTH, 1)


def vertical(fidelity: float) -> float:
    return round((1 - max(fidelity, LEAST)) / (1 - LEAST) * HEIGHT, 1)
