"""The matrix of models and places as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from graphcompress.cli.tables import share, size_text

if TYPE_CHECKING:
    from graphcompress.record import MatrixCell, MatrixReport

CELL, ROW, HEAD, LETTER = 130, 46, 34, 7
"""Pixels: width and height of a cell, height of the head, width of a letter."""
GOOD, AMBER, BAD, UNKNOWN = (46, 160, 67), (214, 140, 30), (218, 54, 51), (190, 190, 190)
WRONG_BY = 0.1
"""Agreement below the floor that is as red as it gets."""


def heatmap(report: MatrixReport) -> str:
    """An SVG: a row per model, a column per place. Green is faithful, the redder the further below the floor; grey does not run."""
    names = list(dict.fromkeys(cell.model for cell in report.cells))
    cells = {(cell.model, cell.place): cell for cell in report.cells}
    left = LETTER * max(len(name) for name in [*names, "agreement"]) + 20
    width, height = left + CELL * len(report.places), HEAD + ROW * len(names) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    parts += [_text(left + CELL * (i + 0.5), HEAD - 12, name, bold=True) for i, name in enumerate(report.places)]
    for row, (name, count) in enumerate(zip(names, report.bytes, strict=True)):
        top = HEAD + ROW * row
        parts.append(_text(8, top + 20, name, anchor="start", bold=True))
        parts.append(_text(8, top + 36, size_text(count), anchor="start"))
        for column, place in enumerate(report.places):
            cell = cells[name, place]
            colour = "rgb({},{},{})".format(*_colour(cell, report.floor))
            parts.append(
                f'<rect x="{left + CELL * column}" y="{top}" width="{CELL - 2}" height="{ROW - 2}" fill="{colour}"><title>{escape(_title(cell))}</title></rect>'
            )
            middle = left + CELL * column + CELL / 2 - 1
            first, second = _lines(cell)
            parts.append(_text(middle, top + 19, first, fill="white", bold=True))
            parts.append(_text(middle, top + 35, second, fill="white"))
    parts.append(_text(8, height - 8, f"agreement with {names[0]} here, floor {report.floor:g}; speed-up beside it at the same place", anchor="start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _lines(cell: MatrixCell) -> tuple[str, str]:
    if cell.problem:
        return "does not run", ""
    timing = "" if cell.timing is None else f"{cell.timing.speedup:.2f}x" + (" (noisy)" if cell.timing.verdict == "noisy" else "")
    return share(cell.agreement), timing


def _title(cell: MatrixCell) -> str:
    if cell.problem:
        return cell.problem
    layer = f"; first layer that differs from {cell.right_at}: {cell.layers[0].op} {cell.layers[0].node}" if cell.layers else ""
    return f"{cell.model} at {cell.place}, {cell.provider}, {cell.runtime}{layer}"


def _colour(cell: MatrixCell, floor: float) -> tuple[int, int, int]:
    if cell.agreement is None:
        return UNKNOWN
    if cell.agreement >= floor:
        return GOOD
    part = 0.5 + 0.5 * min(1.0, (floor - cell.agreement) / WRONG_BY)
    red, green, blue = (round(a + (b - a) * (2 * part - 1)) for a, b in zip(AMBER, BAD, strict=True))
    return red, green, blue


def _text(x: float, y: float, text: str, *, anchor: str = "middle", fill: str = "#222", bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}"{weight}>{escape("".join(c if c.isprintable() else "?" for c in text))}</text>'
