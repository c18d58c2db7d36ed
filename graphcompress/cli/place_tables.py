"""Documents about places elsewhere as tables for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphcompress.cli.tables import add_row, bars_text, new_table, share, size_text
from graphcompress.gate import threads_text
from graphcompress.targets import load_target

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphcompress.record import MatrixCell, MatrixReport, PlacesReport
    from graphcompress.targets import Costs


def places_tables(report: PlacesReport) -> Iterator[RenderableType]:
    """One row per place, and why a place cannot be used."""
    table = new_table(
        "Places",
        ("place", "left"),
        ("runtime", "left"),
        ("providers", "left"),
        ("machine", "left"),
        ("cores", "right"),
        ("memory", "right"),
        ("noise", "right"),
    )
    for place in report.places:
        if place.problem:
            add_row(table, place.name, "cannot be used", *[""] * 5)
            continue
        machine = " ".join(filter(None, [place.machine, place.cpu, " ".join(place.flags)]))
        memory = "-" if place.memory is None else size_text(place.memory)
        noise = "-" if place.clock_noise is None else f"{place.clock_noise:.0%}"
        add_row(table, place.name, f"{place.runtime} {place.version}", ", ".join(place.providers), machine, str(place.cores), memory, noise)
    yield table
    yield from (place.problem for place in report.places if place.problem)


def matrix_tables(report: MatrixReport) -> Iterator[RenderableType]:
    """A row per model and a column per place; then what does not run, and what is wrong at one place only."""
    table = new_table(
        "Agreement, and speed-up beside the first model at the same place", ("model", "left"), ("size", "right"), *((name, "left") for name in report.places)
    )
    cells = {(cell.model, cell.place): cell for cell in report.cells}
    models = list(dict.fromkeys(cell.model for cell in report.cells))
    for name, count in zip(models, report.bytes, strict=True):
        add_row(table, name, size_text(count), *(cell_text(cells[name, place]) for place in report.places))
    yield table
    for cell in report.cells:
        for problem in filter(None, [cell.problem, *cell.notes]):
            yield f"{cell.model} at {cell.place}: {problem}"
        if cell.right_at is not None:
            yield f"{cell.model} is right at {cell.right_at} and wrong at {cell.place}: agreement {share(cell.agreement)}." + (
                f" The first layer that differs is {cell.layers[0].op} '{cell.layers[0].node}' (noise {share(cell.layers[0].noise)}), "
                f"of {len(cell.layers)} that do."
                if cell.layers
                else ""
            )
    yield from bars_text(report.bars)


def cell_text(cell: MatrixCell) -> str:
    """A cell of the matrix in a few words."""
    if cell.problem:
        return "does not run"
    parts = [share(cell.agreement) + ("" if cell.faithful is not False else " wrong")]
    if cell.timing is not None:
        parts.append(f"{cell.timing.speedup:.2f}x" + (" noisy" if cell.timing.verdict == "noisy" else ""))
    if cell.share is not None and cell.share < 1:
        parts.append(f"{cell.share:.0%} of nodes")
    return ", ".join(parts)


def costs_tables(costs: Costs) -> Iterator[RenderableType]:
    """What was measured beside what the table says."""
    table = load_target(costs.target)
    columns = (("layer", "left"), ("float, ns per MAC", "right"), ("table", "right"), ("INT8 / float", "right"), ("spread", "right"), ("table", "right"))
    out = new_table(f"Costs at {costs.place}, {costs.runtime}, {threads_text(costs.threads)}", *columns)
    for cost in costs.costs:
        shipped = table.operator[cost.row].price[cost.price]
        add_row(out, cost.measured, f"{cost.float_ns:.4f}", f"{shipped.float_ns:g}", f"{cost.ratio:.2f}", f"{cost.spread:.0%}", f"{shipped.ratio:g}")
    yield out
    yield from (f"Not measured: {text}." for text in costs.left)
