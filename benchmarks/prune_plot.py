"""Accuracy against multiply-accumulates: a static SVG, one panel a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, MARGIN, TOP = 300, 210, 46, 56
COLOURS = ("#0b6e4f", "#7fb285", "#c8553d", "#3d5a98")
LOW, HIGH = 0.25, 1.0
"""Ends of the horizontal axis: the part of the MACs that is left."""


def plot(rows: Sequence[Any], accuracies: Mapping[str, float], tools: Sequence[str]) -> str:
    """`rows` have task, tool, macs and accuracy (parts of 1), and an error where there is no figure; `accuracies` are the float models'."""
    colours = dict(zip(tools, COLOURS, strict=True))
    width = len(accuracies) * (WIDTH + MARGIN) + MARGIN
    height = TOP + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for index, tool in enumerate(tools):
        x = MARGIN + 160 * index
        parts += [f'<circle cx="{x}" cy="16" r="4" fill="{colours[tool]}"/>', f'<text x="{x + 10}" y="20">{escape(tool)}</text>']
    for index, (task, accuracy) in enumerate(accuracies.items()):
        parts.append(f'<g transform="translate({MARGIN + index * (WIDTH + MARGIN)} {TOP})">')
        parts += panel(task, accuracy, [r for r in rows if r.task == task and not r.error], colours)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def panel(task: str, accuracy: float, rows: Sequence[Any], colours: Mapping[str, str]) -> list[str]:
    """Axes from 0 to 1 in accuracy, the float model as a dashed line, and a line for each tool."""
    parts = [f'<text x="0" y="-10" font-weight="bold">{escape(task)}</text>', f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>']
    for step in range(6):
        y = vertical(step / 5)
        parts += [f'<path d="M0 {y}H{WIDTH}" stroke="#ddd"/>', f'<text x="-6" y="{y + 4}" text-anchor="end">{step / 5:.1f}</text>']
    for value in (0.33, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{horizontal(value)}" y="{HEIGHT + 16}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 34}" text-anchor="middle">part of the MACs that is left</text>')
    parts.append(f'<path d="M0 {vertical(accuracy)}H{WIDTH}" stroke="#444" stroke-dasharray="4 3"/>')
    for tool, colour in colours.items():
        points = sorted((horizontal(r.macs), vertical(r.accuracy)) for r in rows if r.tool == tool)
        if points:
            parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"/>' for x, y in points]
    return parts


def horizontal(macs: float) -> float:
    return round((macs - LOW) / (HIGH - LOW) * WIDTH, 1)


def vertical(accuracy: float) -> float:
    return round((1 - accuracy) * HEIGHT, 1)
