"""graphcompress data"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphcompress.cli import options
from graphcompress.cli.options import Format

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graphcompress.api.documents import DataReport
    from graphcompress.cli.console import Renderable


def data(
    model: options.ModelPath,
    data: options.Data,
    preprocess: options.Preprocess = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="FILE.png", help="Write a picture with a few of the images side by side.", show_default=False)
    ] = None,
    format: options.OutputFormat = Format.table,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> int:
    """Show what a model would be fed: shapes, ranges, first values, and what looks wrong with them."""
    from graphcompress.cli.console import Console
    from graphcompress.cli.files import check_output
    from graphcompress.cli.run import choose_data, finish_report
    from graphcompress.transaction import Transaction

    check_output("--sheet", sheet, (model, data, preprocess))
    with Console(quiet=quiet, format=format) as console:
        from graphcompress import api
        from graphcompress.data.summary import contact_sheet

        source = api.open_model(model)
        feeds = choose_data(data, False, source.model, preprocess)
        assert feeds is not None
        status = finish_report(console, tables, lambda: api.look(source, feeds))
        if sheet is not None:
            with Transaction() as transaction:
                transaction.add(sheet, contact_sheet(feeds))
            console.note(f"The sheet was written to {sheet}.")
        return status


def tables(report: DataReport) -> Iterator[Renderable]:
    """One block per input, then the warnings."""
    from graphcompress.cli.tables import listing

    yield f"{report.data.feeds} feeds from {report.data.source}, for {report.model.path or 'the model'}."
    for item in report.inputs:
        shapes = "; ".join(str(shape) for shape in item.shapes[:4]) + (f"; and {len(item.shapes) - 4} more" if len(item.shapes) > 4 else "")
        rows = [("model takes", item.expected), ("is fed", f"{item.dtype} {shapes}")]
        if item.minimum is not None and item.maximum is not None:
            rows.append(("range", f"{item.minimum:.4g} to {item.maximum:.4g}, mean {item.mean:.4g}, deviation {item.deviation:.4g}, {item.zeros:.0%} zeros"))
        rows += [
            (f"feed {index}", ", ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row) + " ...")
            for index, row in enumerate(item.rows)
        ]
        yield listing(item.name, (("", "left"), ("", "left")), rows)
    for finding in report.findings:
        yield f"{finding.id}: {finding.text}"
    if not report.findings:
        yield "Nothing looks wrong."
