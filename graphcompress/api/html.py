"""Pieces of a page that stands alone: escaped text, tables, static pictures; no script, nothing fetched, light and dark.

Written here rather than with a template library: it is one page of a few pieces, and the core install stays as small as it is.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --page: #ffffff; --soft: #555555; --line: #d0d0d0; --before: #8a8f98; --after: #1f6feb; --good: #1a7f37; --bad: #b42318 }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --page: #14171c; --soft: #a9b0ba; --line: #3a404a; --before: #8b93a0; --after: #6ea8fe; --good: #56d364; --bad: #ff7b72 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 62rem; margin: 0 auto; padding: 1rem }
h1 { font-size: 1.4rem; overflow-wrap: anywhere } h2 { font-size: 1.1rem; margin-top: 2rem; border-bottom: 1px solid var(--line) }
.verdict { font-size: 1.15rem; font-weight: 600 } .soft { color: var(--soft) } .wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .25rem .6rem .25rem 0; vertical-align: top; border-bottom: 1px solid var(--line); overflow-wrap: break-word }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.edge { stroke: var(--soft) } g rect { fill: var(--page); stroke: var(--soft) } .gone rect { stroke: var(--bad); stroke-dasharray: 4 2 } .new rect { stroke: var(--after); stroke-width: 2 }
svg { width: 100%; height: auto; max-width: 60rem; min-width: 36rem } svg text { fill: var(--text); font: 12px system-ui, sans-serif } svg text.name { fill: var(--soft); font-size: 10px } .before { fill: var(--before) } .after { fill: var(--after) } .noise { stroke: var(--text); stroke-width: 1.5 }
.sides { display: flex; flex-wrap: wrap } .sides > div { flex: 1 1 18rem; overflow-x: auto } .sides svg { min-width: 18rem; max-width: 30rem }
tbody:first-child td + td { overflow-wrap: anywhere }
figure { margin: 0 } figcaption { color: var(--soft) }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt } svg, .sides svg { min-width: 0 } .wide { overflow: visible }
  h2 { break-after: avoid } figure, tr { break-inside: avoid }
}
"""
WIDTH, LABEL, CHARACTER, BAR, GAP = 760, 300, 7, 11, 9
"""Units of a picture: its width, the part for labels at most, what a character of them takes, a bar's height, the room between two rows."""


BOX_WIDTH, BOX_HEIGHT, BOX_STEP, HEADING = 176, 33, 52, 22
"""Units of a box, of the way down to the next one, and of the room for a heading."""
ROWS, PARAGRAPHS, CELL = 60, 40, 160
"""Rows of a table, paragraphs of a section, characters of a cell: a page is to be read and sent, the record has everything."""


def text(value: object) -> str:
    """Escaped; control characters, which come from names in files, are shown as '?'."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else "?" for c in str(value)))


def shortened(value: object, length: int = CELL) -> str:
    """At most so many characters: names are told apart by their ends, too."""
    whole = str(value)
    return whole if len(whole) <= length else f"{whole[: length // 2]} ... {whole[5 - length // 2 :]}"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Iterable[int] = ()) -> str:
    """A table; the columns `numbers` are flush right."""
    right = set(numbers)

    def cells(values: Sequence[object], tag: str) -> str:
        # an empty heading is announced as one that says nothing
        kinds = [tag if value else "td" for value in values]
        return "".join(
            f"<{kinds[index]}{' class=number' if index in right else ''}>{text(shortened(value))}</{kinds[index]}>" for index, value in enumerate(values)
        )

    rows = list(rows)
    more = paragraph(f"And {len(rows) - ROWS:,} more: the record has all of them.", "soft") if len(rows) > ROWS else ""
    head = f"<thead><tr>{cells(headings, 'th')}</tr></thead>" if any(headings) else ""
    named = "Table: " + (", ".join(heading for heading in headings if heading) or "what and which")
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[:ROWS])
    return _scrolled(named, f"<table>{head}<tbody>{body}</tbody></table>") + more


def _scrolled(name: str, inside: str) -> str:
    """A box that scrolls where the window is narrow: the keyboard reaches it, and it has a name."""
    return f'<div class=wide tabindex="0" role="group" aria-label="{text(shortened(name))}">{inside}</div>'


def section(title: str, *parts: str) -> str:
    """A heading and what is below it; nothing where there is nothing below."""
    inside = "".join(parts)
    return f"<section><h2>{text(title)}</h2>{inside}</section>" if inside else ""


def paragraph(sentence: object, kind: str = "") -> str:
    """A paragraph of a class."""
    return f"<p{f' class={kind}' if kind else ''}>{text(sentence)}</p>" if sentence else ""


def paragraphs(sentences: Iterable[object]) -> str:
    """One below the other."""
    all_of_them = list(sentences)
    more = [f"And {len(all_of_them) - PARAGRAPHS:,} more: the record has all of them."] if len(all_of_them) > PARAGRAPHS else []
    return "".join(paragraph(shortened(sentence, 4 * CELL)) for sentence in (*all_of_them[:PARAGRAPHS], *more))


def bars(title: str, rows: Sequence[tuple[str, float, float]], unit: str, noise: float = 0.0) -> str:
    """Two bars per row, before and after, as a picture with a text for those who cannot see it. `noise` is the part of a value that says nothing: drawn as a whisker."""
    if not rows:
        return ""
    rows = [(shortened(label), before, after) for label, before, after in rows]
    longest = max((value for _, *values in rows for value in values), default=0.0) * (1 + noise) or 1.0
    left = min(LABEL, 16 + CHARACTER * max(len(label) for label, *_ in rows))
    scale = (WIDTH - left - 90) / longest
    step = 2 * BAR + GAP
    parts = []
    for index, (label, *values) in enumerate(rows):
        top = index * step
        shown = label if len(label) <= 44 else f"...{label[-41:]}"
        parts.append(f'<text x="{left - 8:g}" y="{top + BAR + 4}" text-anchor="end">{text(shown)}<title>{text(label)}</title></text>')
        for number, (kind, value) in enumerate(zip(("before", "after"), values, strict=True)):
            y, width = top + number * BAR, value * scale
            parts.append(f'<rect class="{kind}" x="{left:g}" y="{y}" width="{width:.1f}" height="{BAR - 1}"/>')
            if noise:
                parts.append(
                    f'<line class="noise" x1="{left + width * (1 - noise):.1f}" x2="{left + width * (1 + noise):.1f}" y1="{y + BAR / 2:.1f}" y2="{y + BAR / 2:.1f}"/>'
                )
            parts.append(f'<text x="{left + width * (1 + noise) + 5:.1f}" y="{y + BAR - 1}">{value:,.4g} {text(unit)}</text>')
    told = "; ".join(f"{label}: {before:,.4g} {unit} before, {after:,.4g} {unit} after" for label, before, after in rows)
    picture = f'<svg role="img" viewBox="0 0 {WIDTH} {len(rows) * step}" xmlns="http://www.w3.org/2000/svg"><title>{text(title)}</title><desc>{text(told)}</desc>{"".join(parts)}</svg>'
    caption = f"{title}. Upper bar, grey: before; lower bar, blue: after."
    return f"<figure>{_scrolled(title, picture)}<figcaption>{text(caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Box:
    """A node of a sketch: operator, name, kind ("same", "gone", "new"), and how far down it stands."""

    op: str
    name: str
    kind: str
    depth: int


@dataclass(frozen=True)
class Sketch:
    """A small graph: boxes, edges from box to box, and how many boxes were left out."""

    boxes: Sequence[Box]
    edges: Sequence[tuple[int, int]]
    left_out: int = 0


def graphs(title: str, sides: Sequence[tuple[str, Sketch]], caption: str) -> str:
    """Small graphs side by side, one below the other where the window is narrow, each a picture with a text for those who cannot see it."""
    pictures = "".join(_scrolled(f"{title}, {heading}", _graph(f"{title}, {heading}", heading, sketch)) for heading, sketch in sides)
    return f"<figure><div class=sides>{pictures}</div><figcaption>{text(caption)}</figcaption></figure>"


def _graph(title: str, heading: str, sketch: Sketch) -> str:
    """One side: boxes in rows, edges downwards."""
    parts = [f'<text x="0" y="13">{text(heading)}</text>']
    rows = [line for depth in sorted({box.depth for box in sketch.boxes}) for line in _lines([i for i, b in enumerate(sketch.boxes) if b.depth == depth])]
    middles: dict[int, tuple[float, int]] = {}
    for row, line in enumerate(rows):
        for place, index in enumerate(line):
            middles[index] = BOX_WIDTH / 2 + place * (BOX_WIDTH + GAP) + (0 if len(line) > 1 else (BOX_WIDTH + GAP) / 2), HEADING + row * BOX_STEP
    for start, end in sketch.edges:
        (x1, y1), (x2, y2) = middles[start], middles[end]
        parts.append(f'<line class="edge" x1="{x1:g}" y1="{y1 + BOX_HEIGHT}" x2="{x2:g}" y2="{y2}"/>')
    for index, box in enumerate(sketch.boxes):
        x, y = middles[index]
        short = shortened(box.name, 26)
        parts.append(
            f'<g class="{box.kind}"><title>{text(shortened(box.name))}</title><rect x="{x - BOX_WIDTH / 2:g}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4"/>'
            f'<text x="{x:g}" y="{y + 14}" text-anchor="middle">{text(shortened(box.op, 24))}</text>'
            f'<text class="name" x="{x:g}" y="{y + 27}" text-anchor="middle">{text(short)}</text></g>'
        )
    bottom = HEADING + len(rows) * BOX_STEP
    if sketch.left_out or not sketch.boxes:
        parts.append(f'<text x="0" y="{bottom + 4}">{f"and {sketch.left_out:,} more nodes" if sketch.left_out else "nothing"}</text>')
    told = f"{heading}: {', '.join(f'{box.op} ({box.kind})' for box in sketch.boxes) or 'nothing'}"
    size = f"0 0 {WIDTH // 2} {bottom + 8}"
    return f'<svg role="img" viewBox="{size}" xmlns="http://www.w3.org/2000/svg"><title>{text(title)}</title><desc>{text(told)}</desc>{"".join(parts)}</svg>'


def _lines(places: Sequence[int]) -> list[Sequence[int]]:
    """At most two boxes beside each other."""
    return [places[i : i + 2] for i in range(0, len(places), 2)]


def page(title: str, *sections: str) -> str:
    """The whole file."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(shortened(title))}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main><h1>{text(title)}</h1>{"".join(sections)}</main></body></html>\n'
